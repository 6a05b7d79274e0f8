"""From generated tokens to the frames of one stream: text, stop strings, ready SSE bytes.

A frame carries token ids together with *all* their text: tokens whose text is held back (half a
character, or what may become a stop string) wait with it. So a stream cut off between two frames
can be taken up by another worker from the tokens alone, without a gap or a repetition.
Lives in the HTTP process; knows no engine.
"""

from mserve.runtime.chunks import chunk
from mserve.runtime.logprobs import LogprobWriter, Scored
from mserve.runtime.messages import (
    FrameKind,
    Logprobs,
    Render,
    Sampling,
    encode_frame,
    pack_tokens,
)
from mserve.runtime.tokenizer import StreamDecoder


class TextStream:
    """One generation's way out of a worker."""

    def __init__(
        self,
        decoder: StreamDecoder,
        sampling: Sampling,
        render: Render,
        logprobs: LogprobWriter | None = None,
    ) -> None:
        self._decoder = decoder
        self._logprobs = logprobs
        self._stop = sampling.stop
        self._render = render
        self._held_tokens: list[int] = []
        self._held_logprobs: list[tuple[int, Scored]] = []  # with where in the text it begins
        self._held_text = ""
        self._num_sent = 0
        self.finished = False
        self.stopped = False  # by a stop string

    def feed(self, token: int, finish: str, logprobs: Logprobs | None = None) -> bytes:
        """Frames for one more token; `finish` is the engine's verdict, "" while it goes on.

        The end-of-sequence token that finishes an answer has no text and no logprobs, nor has what
        is cut off with a stop string. Sets `finished` when one ends the answer before the engine did.
        """
        self._held_tokens.append(token)
        if finish != "stop":
            if logprobs is not None:
                self._held_logprobs.append((len(self._held_text), (token, logprobs)))
            self._held_text += self._decoder.push((token,))
        if finish:
            self._held_text += self._decoder.flush()
        end = self._find_stop()
        if end is not None:
            self._held_text = self._held_text[:end]
            self._held_logprobs = [held for held in self._held_logprobs if held[0] < end]
            self.stopped = True
            return self._release("stop")
        if finish:
            return self._release(finish)
        if self._decoder.pending or self._may_stop():
            return b""
        return self._release("")

    @property
    def num_sent(self) -> int:
        """Tokens in frames so far."""
        return self._num_sent

    def _find_stop(self) -> int | None:
        """Where the text ends if a stop string is complete: before the first of them."""
        found = [at for stop in self._stop if (at := self._held_text.find(stop)) >= 0]
        return min(found, default=None)

    def _may_stop(self) -> bool:
        """The held text ends with a beginning of a stop string."""
        return any(
            self._held_text.endswith(stop[:length])
            for stop in self._stop
            for length in range(1, len(stop))
        )

    def _release(self, reason: str) -> bytes:
        self.finished = bool(reason)
        first = self._num_sent == 0
        scored = [scored for _, scored in self._held_logprobs]
        logprobs = self._logprobs.piece(scored) if self._logprobs else None
        payload = chunk(
            self._render, self._held_text, reason or None, first=first, logprobs=logprobs
        )
        frame = encode_frame(FrameKind.TOKENS, payload, pack_tokens(self._held_tokens))
        self._num_sent += len(self._held_tokens)
        self._held_tokens, self._held_logprobs, self._held_text = [], [], ""
        return frame
