"""Frames carry tokens with all of their text, and stop strings never leak."""

import pytest

from mserve.runtime.chunks import WholeChoice
from mserve.runtime.config import shipped_model
from mserve.runtime.messages import (
    FrameDecoder,
    FrameKind,
    Logprobs,
    PlanCall,
    Render,
    Sampling,
    StartGenerateCall,
    pack_tokens,
    unpack_tokens,
)
from mserve.runtime.tokenizer import Tokenizer
from mserve.runtime.worker import ipc
from mserve.runtime.worker.answer import PlanAnswer
from mserve.runtime.worker.streams import TextStream

TEXT = 'The Café was closed. "Öffnen!" cried the girl, “now” \N{GRINNING FACE} and went in.'


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(shipped_model())


def stream_text(
    tokenizer: Tokenizer, text: str, stop: tuple[str, ...] = (), finish: str = "length"
) -> list[tuple[tuple[int, ...], str]]:
    """(token ids, text) of every frame, feeding until the text ends or a stop string does."""
    stream = TextStream(tokenizer.stream(), Sampling(1000, stop=stop), Render())
    decoder, frames = FrameDecoder(), []
    ids = tokenizer.encode(text)
    for index, token in enumerate(ids):
        last = index == len(ids) - 1
        frames += list(decoder.feed(stream.feed(token, finish if last else "")))
        if stream.finished:
            break
    assert all(frame.kind is FrameKind.TOKENS for frame in frames)
    assert stream.num_sent == sum(frame.num_tokens for frame in frames)
    return [(unpack_tokens(frame.tokens), frame.payload.decode()) for frame in frames]


def test_the_text_is_whole_and_every_frame_decodes_by_itself(tokenizer: Tokenizer) -> None:
    frames = stream_text(tokenizer, TEXT)
    assert "".join(text for _, text in frames) == TEXT
    assert [token for tokens, _ in frames for token in tokens] == tokenizer.encode(TEXT)
    assert all(tokenizer.decode(tokens) == text for tokens, text in frames)
    assert len(frames) > 10


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ((" closed",), "The Café was"),
        (("é",), "The Caf"),
        (("girl, “no", "zzz"), 'The Café was closed. "Öffnen!" cried the '),
        (("went in.",), TEXT.removesuffix("went in.")),
        (("was closed", "Café"), "The "),
        (("nowhere",), TEXT),
    ],
)
def test_text_ends_before_the_first_stop_string(
    tokenizer: Tokenizer, stop: tuple[str, ...], expected: str
) -> None:
    frames = stream_text(tokenizer, TEXT, stop)
    assert "".join(text for _, text in frames) == expected


def test_what_may_become_a_stop_string_waits_with_its_tokens(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer.stream(), Sampling(100, stop=("the end",)), Render())
    out = [stream.feed(token, "") for token in tokenizer.encode("so the")]
    assert out[-1] == b""
    (frame,) = FrameDecoder().feed(stream.feed(tokenizer.encode("!")[0], ""))
    assert frame.num_tokens >= 2
    assert frame.payload.decode().endswith("the!")


def test_the_token_that_ends_an_answer_has_no_text(tokenizer: Tokenizer) -> None:
    frames = stream_text(tokenizer, "Good night.", finish="stop")
    assert "".join(text for _, text in frames) == "Good night"


def test_an_unfinished_character_comes_out_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a\N{GRINNING FACE}")[:-1]
    stream = TextStream(tokenizer.stream(), Sampling(100), Render())
    for token in ids[:-1]:
        stream.feed(token, "")
    (frame,) = FrameDecoder().feed(stream.feed(ids[-1], "length"))
    assert "\N{REPLACEMENT CHARACTER}" in frame.payload.decode()


def completion(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = ()) -> WholeChoice:
    """The answer that these tokens are, each as probable as its place says."""
    sampling = Sampling(1000, stop=stop, logprobs=0)
    step = StartGenerateCall("g", 0, sampling, Render("completion"))
    answer = PlanAnswer(PlanCall("p", pack_tokens((5, 6)), (step,)), tokenizer.stream)
    decoder, payload = FrameDecoder(), b""
    for index, token in enumerate(ids):
        event = ipc.Token("p/0", "g", token, logprobs=Logprobs(-float(index), ()))
        frames = decoder.feed(answer.frames(event))
        payload += b"".join(frame.payload for frame in frames if frame.kind is FrameKind.TOKENS)
    return WholeChoice.of_events(payload, "stop")


@pytest.mark.parametrize("stop", ["!” cried", "n!", "Öffnen!"])
def test_logprobs_end_where_the_text_does(tokenizer: Tokenizer, stop: str) -> None:
    text = "The Café was closed. “Öffnen!” cried the girl."
    ids = tokenizer.encode(text, special_tokens=False)
    choice = completion(tokenizer, ids, (stop,))
    assert choice.text == text[: text.index(stop)]
    assert choice.logprobs is not None
    offsets = choice.logprobs["text_offset"]
    before = [tokenizer.decode(ids[:index]) for index in range(len(ids))]
    begins = [len(text.rstrip("\N{REPLACEMENT CHARACTER}")) for text in before]
    assert len(offsets) == sum(begin < len(choice.text) for begin in begins)
    assert choice.logprobs["token_logprobs"] == [-float(index) for index in range(len(offsets))]


def test_special_tokens_take_no_place_in_the_text(tokenizer: Tokenizer) -> None:
    special = min(tokenizer.special_ids)
    first, second = (tokenizer.encode(word, special_tokens=False) for word in ("good", " night"))
    choice = completion(tokenizer, [*first, special, *second, *tokenizer.encode(",")])
    assert choice.text == "good night,"
    assert choice.logprobs is not None
    found = dict(zip(choice.logprobs["tokens"], choice.logprobs["text_offset"], strict=True))
    assert found[","] == len("good night")
    assert found[tokenizer.token_bytes(special).decode()] == len("good")
