"""The single microserving calls as people and other routers make them: JSON (or msgpack) bodies.

Each becomes a plan call of one step, so there is one way into the engine. Knows no HTTP.
"""

import struct
from typing import TypeVar

import msgspec
from msgspec import Struct

from mserve.runtime.errors import BadRequest
from mserve.runtime.messages import (
    CommitCall,
    PlanCall,
    PrepRecvCall,
    Receiver,
    RemoteSendCall,
    Render,
    Sampling,
    StartGenerateCall,
    StepCall,
    pack_tokens,
)

Body = TypeVar("Body", bound=Struct)


class PlanBody(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every call carries. `tokens` are the ids of the whole prompt."""

    plan_id: str
    tokens: list[int]
    step: str = ""
    attempt: int = 0
    incarnation: str = ""
    salt: str = ""

    def call(self, step: StepCall) -> PlanCall:
        return PlanCall(
            plan_id=self.plan_id,
            tokens=packed(self.tokens),
            steps=(step,),
            attempt=self.attempt,
            incarnation=self.incarnation,
            salt=self.salt.encode(),
        )


class PrepRecvBody(PlanBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    ticket: str
    end: int
    begin: int = 0

    def plan_call(self) -> PlanCall:
        step = self.step or f"prep_recv {self.ticket}"
        return self.call(PrepRecvCall(step, self.begin, self.end, self.ticket))


class RemoteSendBody(PlanBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`to[i].address` is base64 in JSON; a worker's is in its `/v1/microserving/state`."""

    end: int
    to: tuple[Receiver, ...]
    begin: int = 0
    uses: tuple[str, ...] = ()

    def plan_call(self) -> PlanCall:
        step = self.step or f"remote_send {self.begin}"
        return self.call(RemoteSendCall(step, self.begin, self.end, self.to, self.uses))


class StartGenerateBody(PlanBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    sampling: Sampling
    begin: int = 0
    uses: tuple[str, ...] = ()

    def plan_call(self) -> PlanCall:
        step = self.step or "start_generate"
        return self.call(StartGenerateCall(step, self.begin, self.sampling, Render(), self.uses))


class CommitBody(PlanBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    ticket: str

    def plan_call(self) -> PlanCall:
        return self.call(CommitCall(self.step or f"commit {self.ticket}", self.ticket))


class TicketsBody(Struct, frozen=True, forbid_unknown_fields=True):
    tickets: tuple[str, ...]


class MatchBody(Struct, frozen=True, forbid_unknown_fields=True):
    tokens: list[int]
    salt: str = ""


def packed(tokens: list[int]) -> bytes:
    """Token ids as int32 bytes; raises BadRequest for what is no token id."""
    try:
        return pack_tokens(tokens)
    except struct.error:
        raise BadRequest("`tokens` must be 32-bit token ids.", param="tokens") from None


def parse(body: bytes, content_type: str, cls: type[Body]) -> Body:
    """A body of type `cls` from JSON or msgpack; raises BadRequest naming the field that is wrong."""
    try:
        if content_type.startswith("application/msgpack"):
            return msgspec.msgpack.decode(body, type=cls)
        return msgspec.json.decode(body, type=cls)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BadRequest(f"The body is not a valid call: {error}") from None
