"""The one module that imports ucxx: a worker, its endpoints and requests, behind plain calls.

Every ucxx exception ends here as `UcxFailure`. It knows no protocol: tags are numbers to it, and
what a message means is the business of ucx.py.

Endpoints always have error handling on: without it a send to a dead peer never ends. UCX's
posix and sysv transports stay off: all senders share one receive FIFO there, which a sender killed
while writing wedges for everyone. Control goes by TCP (or RDMA), bulk by CMA, which reads the
sender's memory directly.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from ucxx._lib.arr import Array
from ucxx._lib.libucxx import (
    UCXAddress,
    UCXContext,
    UCXEndpoint,
    UCXError,
    UCXWorker,
    UCXXTag,
    UCXXTagMask,
)

DEFAULT_OPTIONS: Final[Mapping[str, str]] = {
    "TLS": "^posix,sysv",
    "CMA_MEMORY_INVALIDATE": "y",
    "TCP_KEEPIDLE": "2s",
}
LOOPBACK_OPTIONS: Final[Mapping[str, str]] = {**DEFAULT_OPTIONS, "NET_DEVICES": "lo"}
"""For peers on this machine only: nothing listens where another could connect."""
CONNECT_TIMEOUT_S: Final = 5.0
_CLOSE_PERIOD_NS: Final = 10**9


class UcxFailure(Exception):
    """UCX could not do it; the message is UCX's own. Concerns one endpoint or request only."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that was taken off UCX's queue; it must be received, by `UcxWorker.receive`."""

    tag: int
    num_bytes: int
    probe: Any


class UcxRequest:
    """A send or receive under way; keeps its buffer alive."""

    __slots__ = ("_buffer", "_request")

    def __init__(self, request: Any, buffer: Array) -> None:
        self._request = request
        self._buffer = buffer

    @property
    def ended(self) -> bool:
        """Well or not: UCX touches the buffer no more."""
        return bool(self._request.completed)

    def is_done(self) -> bool:
        """True once ended well. Raises UcxFailure once ended otherwise."""
        if not self._request.completed:
            return False
        try:
            self._request.check_error()
        except UCXError as error:
            raise UcxFailure(_describe(error)) from error
        return True


class UcxEndpoint:
    """Our end of the way to one peer."""

    def __init__(self, endpoint: Any, worker: "UcxWorker") -> None:
        self._endpoint = endpoint
        self._worker = worker
        self._first_send: UcxRequest | None = None
        self._deadline_s = worker.clock() + CONNECT_TIMEOUT_S

    def watch(self, on_closed: Callable[[], None]) -> None:
        """Has `on_closed` called, from within progress, when UCX gives the peer up."""
        self._endpoint.set_close_callback(on_closed)

    def send(self, buffer: bytes | memoryview, tag: int) -> UcxRequest:
        """Raises UcxFailure."""
        array = Array(buffer)
        request = UcxRequest(_call(self._endpoint.tag_send, array, UCXXTag(tag)), array)
        self._first_send = self._first_send or request
        return request

    def receive(self, buffer: memoryview, tag: int) -> UcxRequest:
        """Unlike a worker's receive this one ends when the endpoint closes. Raises UcxFailure."""
        array = Array(buffer)
        return UcxRequest(_call(self._endpoint.tag_recv, array, UCXXTag(tag)), array)

    @property
    def is_connecting(self) -> bool:
        """The peer's process has not reacted to the first send yet. UCX's descriptor is readable
        all that time."""
        return self._first_send is not None and not self._first_send.ended

    @property
    def is_overdue(self) -> bool:
        """Still connecting after `CONNECT_TIMEOUT_S`: the peer's host answers, its process not."""
        return self.is_connecting and self._worker.clock() > self._deadline_s

    def close(self) -> None:
        """Closes by force and cancels what is under way, in about 1 ms, also if the peer is gone.

        UCX never frees an endpoint, nor its worker, that is closed while connecting: such a one
        waits for `UcxWorker.reap`, until it is connected or overdue.
        """
        if self.is_connecting and not self.is_overdue:
            self._worker.closing.append(self)
        else:
            self.close_now()

    def close_now(self) -> None:
        """Closes and lets go of the endpoint, which is not used again."""
        # All that can fail is that UCX closed it before; the requests end in either case.
        with suppress(UCXError):
            self._endpoint.remove_close_callback()
            self._endpoint.close_blocking(period=_CLOSE_PERIOD_NS, max_attempts=1)
        del self._endpoint


class UcxWorker:
    """One UCX worker, polled by its owner, with a descriptor to sleep on."""

    def __init__(self, options: Mapping[str, str], clock: Callable[[], float]) -> None:
        """Raises UcxFailure, for instance where no transport of `options` exists."""
        self._worker = _call(_open_worker, options)
        self.address: bytes = self._worker.address.tobytes()
        self.wakeup_fd: int = self._worker.epoll_file_descriptor
        self.clock = clock
        self.closing: list[UcxEndpoint] = []

    def connect(self, address: bytes) -> UcxEndpoint:
        """`address` is another worker's `address`, unharmed: UCX does not check. Raises
        UcxFailure; a peer that does not answer shows later."""
        peer = UCXAddress.create_from_buffer(address)
        create = UCXEndpoint.create_from_worker_address
        return UcxEndpoint(_call(create, self._worker, peer, True), self)

    def progress_once(self) -> bool:
        """Whether anything moved."""
        return bool(self._worker.progress_once())

    def take_arrival(self, tag: int, mask: int) -> Arrival | None:
        """The first unexpected message whose tag is `tag` under `mask`."""
        probe = self._worker.tag_probe(UCXXTag(tag), UCXXTagMask(mask), remove=True)
        if not probe.matched:
            return None
        return Arrival(probe.sender_tag.value, probe.length, probe)

    def receive(self, arrival: Arrival, buffer: memoryview) -> UcxRequest:
        """Raises UcxFailure. A message longer than `buffer` ends as a failure."""
        array = Array(buffer)
        return UcxRequest(_call(self._worker.tag_recv_with_handle, array, arrival.probe), array)

    def arm(self) -> bool:
        """False if something is there to progress; else `wakeup_fd` tells when there will be."""
        return bool(self._worker.arm())

    def reap(self) -> bool:
        """Closes the endpoints that were waiting to be closed; whether none is left."""
        waiting = []
        for endpoint in self.closing:
            if endpoint.is_connecting and not endpoint.is_overdue:
                waiting.append(endpoint)
            else:
                endpoint.close_now()
        self.closing = waiting
        return not waiting

    def close(self) -> None:
        """Destroys the worker: its peers see their connections break. `reap` first."""
        for endpoint in self.closing:
            endpoint.close_now()
        self.closing.clear()
        del self._worker


def lists_cma(options: Mapping[str, str] = DEFAULT_OPTIONS) -> bool:
    """Whether UCX may read other processes' memory here (the process_vm_readv system call)."""
    return "cma/memory" in _open_context(options).info


def _open_context(options: Mapping[str, str]) -> Any:
    # ucxx sets this for versions of UCX that read it when they are loaded, which has happened by
    # now; other versions would complain about it, on stdout, in every process.
    os.environ.pop("UCX_MEMTYPE_CACHE", None)
    return UCXContext(dict(options))


def _open_worker(options: Mapping[str, str]) -> Any:
    context = _open_context(options)
    worker = UCXWorker(context, enable_delayed_submission=False, enable_python_future=False)
    worker.init_blocking_progress_mode()
    return worker


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except UCXError as error:
        raise UcxFailure(_describe(error)) from error


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
