"""The two forms of log probabilities, in pieces that together are those of the whole."""

from mserve.runtime.logprobs import LogprobWriter, joined
from mserve.runtime.messages import Logprobs

BYTES = {1: b"Gr", 2: b"\xc3", 3: b"\xb6", 4: b"sse"}
TOKENS = [(token, Logprobs(-float(token), ((token, -float(token)), (2, -9.0)))) for token in BYTES]


def test_completions_count_characters_not_bytes() -> None:
    writer = LogprobWriter("completion", BYTES.__getitem__, text_offset=10)
    whole = writer.piece(TOKENS)
    assert whole["text_offset"] == [10, 12, 12, 13]
    assert whole["tokens"] == ["Gr", "bytes:\\xc3", "bytes:\\xb6", "sse"]
    assert whole["token_logprobs"] == [-1.0, -2.0, -3.0, -4.0]
    assert whole["top_logprobs"][0] == {"Gr": -1.0, "bytes:\\xc3": -9.0}


def test_what_the_text_leaves_out_takes_no_place_in_it() -> None:
    writer = LogprobWriter("completion", BYTES.__getitem__, text_offset=10, skipped={1})
    assert writer.piece([TOKENS[3], TOKENS[0], TOKENS[3]])["text_offset"] == [10, 13, 13]


def test_a_completion_has_its_own_token_among_the_alternatives() -> None:
    unlikely = (4, Logprobs(-7.0, ((1, -0.1),)))
    whole = LogprobWriter("completion", BYTES.__getitem__).piece([unlikely])
    assert whole["top_logprobs"] == [{"Gr": -0.1, "sse": -7.0}]


def test_chat_has_bytes() -> None:
    whole = LogprobWriter("chat", BYTES.__getitem__).piece(TOKENS)
    entries = whole["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == "Grösse"
    assert [entry["logprob"] for entry in entries] == [-1.0, -2.0, -3.0, -4.0]
    assert entries[3]["top_logprobs"][1] == {"token": "\ufffd", "logprob": -9.0, "bytes": [195]}


def test_pieces_are_joined() -> None:
    for kind in ("completion", "chat"):
        whole = LogprobWriter(kind, BYTES.__getitem__).piece(TOKENS)
        writer = LogprobWriter(kind, BYTES.__getitem__)
        pieces = [writer.piece(TOKENS[:1]), None, writer.piece(TOKENS[1:])]
        assert joined(pieces) == whole
    assert joined([None]) is None
