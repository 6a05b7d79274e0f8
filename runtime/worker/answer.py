"""The answer to one plan call: turns the engine's events about its steps into frames.

Knows the events (ipc.py) and the frames (messages.py); neither HTTP nor the engine.
"""

from collections.abc import Callable, Sequence

from mserve.runtime.logprobs import LogprobWriter
from mserve.runtime.messages import (
    Finish,
    FrameKind,
    PlanCall,
    StartGenerateCall,
    StepReport,
    encode,
    encode_frame,
    unpack_tokens,
)
from mserve.runtime.tokenizer import StreamDecoder
from mserve.runtime.worker import ipc
from mserve.runtime.worker.streams import TextStream

CONTEXT_TOKENS = 8  # of the prompt: what the text of the first new token may depend on
MakeDecoder = Callable[[Sequence[int]], StreamDecoder]


class PlanAnswer:
    """Frames of one plan call. `is_done` once every step the call named has ended."""

    def __init__(self, call: PlanCall, make_decoder: MakeDecoder) -> None:
        self.key = call.key
        self._pending = {step.step for step in call.steps}
        prompt_end = unpack_tokens(call.tokens[-4 * CONTEXT_TOKENS :])
        self._streams = {
            step.step: _stream(make_decoder(prompt_end), step, call.tokens)
            for step in call.steps
            if isinstance(step, StartGenerateCall)
        }
        self.failed = False
        self.stop_found = False  # a stop string ended the text; the engine should stop too

    @property
    def is_done(self) -> bool:
        return self.failed or not self._pending

    def frames(self, event: ipc.Stepped | ipc.Token | ipc.Failed) -> bytes:
        """What to write for one event; empty if it concerns another call's steps."""
        match event:
            case ipc.Token():
                return self._token(event)
            case ipc.Stepped():
                return self._report(event.report)
            case ipc.Failed():
                self.failed = True
                return encode_frame(FrameKind.PROBLEM, encode(event.problem))

    def _token(self, event: ipc.Token) -> bytes:
        stream = self._streams.get(event.step)
        if stream is None or self.is_done:
            return b""
        out = b""
        if not stream.finished:
            out = stream.feed(event.token, event.finish, event.logprobs) + finish_frame(
                stream, event
            )
        self.stop_found = stream.finished and not event.finish
        if event.report is not None:
            out += self._report(event.report)
        return out

    def _report(self, report: StepReport) -> bytes:
        if report.step not in self._pending:
            return b""
        if report.state == "done":
            self._pending.discard(report.step)
        return encode_frame(FrameKind.STEP, encode(report))


def _stream(decoder: StreamDecoder, step: StartGenerateCall, prompt: bytes) -> TextStream:
    sampling, kind = step.sampling, step.render.kind
    if sampling.logprobs is None or kind == "text":
        return TextStream(decoder, sampling, step.render)
    answered = unpack_tokens(prompt)[-sampling.answered :] if sampling.answered else ()
    tokenizer = decoder.tokenizer
    text_offset = len(tokenizer.decode(answered))
    writer = LogprobWriter(kind, tokenizer.token_bytes, text_offset, tokenizer.special_ids)
    return TextStream(decoder, sampling, step.render, writer)


def finish_frame(stream: TextStream, event: ipc.Token) -> bytes:
    """The frame that ends a finished stream; it goes out in the same write as the last text, since
    an answer cut off between them would be taken for one that is not complete."""
    if not stream.finished:
        return b""
    finish = Finish(
        reason="length" if event.finish == "length" and not stream.stopped else "stop",
        prompt_tokens=event.prompt_tokens,
        completion_tokens=stream.num_sent,
        cached_tokens=event.cached_tokens,
    )
    return encode_frame(FrameKind.FINISH, encode(finish))
