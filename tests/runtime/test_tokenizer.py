"""The tokenizer agrees with transformers, and streams are the text cut into pieces."""

import importlib
import json
import os
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors

from mserve.runtime.config import shipped_model
from mserve.runtime.errors import BadRequest, ConfigError
from mserve.runtime.tokenizer import REPLACEMENT, Tokenizer

TINY = shipped_model()
SAMPLES = [
    "",
    "a",
    "Hello, world!",
    "naïve café",
    "日本語のテキスト",
    "👩‍👩‍👧 family 🚀",
    " \n\t x  y\n\n",
]
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hello"}],
    [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}],
        },
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go on — é"},
    ],
]


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    return Tokenizer.load(TINY)


@pytest.fixture(scope="module")
def reference() -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    with warnings.catch_warnings():
        # The library's own imports warn about its dependencies' deprecations.
        warnings.simplefilter("ignore", DeprecationWarning)
        library: Any = importlib.import_module("transformers")
    return library.AutoTokenizer.from_pretrained(TINY)


def byte_fallback_tokenizer() -> Tokenizer:
    """As Llama 2's: unknown characters are byte tokens, and a text's first space is dropped."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["▁", "▁a", "b", "▁b", "é"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return Tokenizer(tokenizer, eos_ids=[2])


def write_folder(folder: Path, template: str | None, **config: Any) -> Path:
    """A byte-level tokenizer that puts <s> before every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text('{"eos_token_id": 1}')
    return folder


@pytest.mark.parametrize("text", SAMPLES)
def test_ids_are_those_of_transformers(tiny: Tokenizer, reference: Any, text: str) -> None:
    ids = tiny.encode(text)
    assert ids == reference(text)["input_ids"]
    assert tiny.decode(ids) == text


@pytest.mark.parametrize("messages", CHATS)
@pytest.mark.parametrize("generation", [True, False])
def test_chats_are_rendered_as_by_transformers(
    tiny: Tokenizer, reference: Any, messages: list[dict[str, Any]], generation: bool
) -> None:
    options = {"add_generation_prompt": generation}
    expected = reference.apply_chat_template(messages, tokenize=False, **options)
    assert tiny.render_chat(messages, **options) == expected
    ids = reference.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
    assert tiny.encode_chat(messages, **options) == ids


def test_ends_and_size_of_the_vocabulary(tiny: Tokenizer) -> None:
    config = json.loads((TINY / "config.json").read_text())
    assert tiny.eos_ids == {0, 4}
    assert tiny.vocab_size == config["vocab_size"]


def test_completions_get_the_first_token_that_the_model_wants_and_chats_do_not(
    tmp_path: Path,
) -> None:
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    token = {"content": "<s>", "lstrip": False}
    tokenizer = Tokenizer.load(write_folder(tmp_path, template, bos_token=token))
    hello = tokenizer.encode("hello", special_tokens=False)
    assert len(hello) == 5
    assert tokenizer.encode("hello") == [0, *hello]
    assert tokenizer.encode_chat([{"content": "hello"}]) == [0, *hello]
    assert tokenizer.decode([0, *hello]) == "hello"
    assert tokenizer.decode([0, *hello], skip_special_tokens=False) == "<s>hello"


def test_the_template_may_be_a_file_or_one_of_several(tmp_path: Path) -> None:
    several = [{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]
    write_folder(tmp_path, None, chat_template=several)
    assert Tokenizer.load(tmp_path).render_chat([]) == "yes"
    (tmp_path / "chat_template.jinja").write_text("{{ messages | tojson }} {{ thinking }}")
    rendered = Tokenizer.load(tmp_path).render_chat([{"content": "<é>"}], thinking=False)
    assert rendered == '[{"content": "<é>"}] False'


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('Roles must alternate.') }}", "Roles must alternate"),
        ("{{ messages[3].content }}", "refuses these messages"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ 'a' + 1 }}", "refuses these messages"),
    ],
)
def test_messages_that_cannot_be_rendered(
    tmp_path: Path, template: str | None, message: str
) -> None:
    tokenizer = Tokenizer.load(write_folder(tmp_path, template))
    with pytest.raises(BadRequest, match=message) as caught:
        tokenizer.render_chat([{"role": "user", "content": "x"}])
    assert caught.value.param == "messages"


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model folder"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json' is not a tokenizer"):
        Tokenizer.load(tmp_path)
    write_folder(tmp_path, "{% for %}")
    with pytest.raises(ConfigError, match=r"chat template .* is wrong"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("text", SAMPLES)
def test_a_stream_is_the_text_in_whole_characters(tiny: Tokenizer, text: str) -> None:
    decoder = tiny.stream()
    pieces = [decoder.push([token]) for token in tiny.encode(text)]
    assert "".join(pieces) == text, "nothing waits for the end"
    assert decoder.flush() == ""
    assert not any(REPLACEMENT in piece for piece in pieces)


def test_text_is_not_held_back_longer_than_its_character(tiny: Tokenizer) -> None:
    decoder = tiny.stream()
    emoji = tiny.encode("🚀")
    assert len(emoji) > 1, "an emoji is several tokens of this vocabulary"
    assert decoder.push(tiny.encode("Go ") + emoji[:1]) == "Go "
    assert "".join(decoder.push([token]) for token in emoji[1:]) == "🚀"


def test_an_unfinished_character_comes_at_the_end(tiny: Tokenizer) -> None:
    decoder = tiny.stream()
    ids = tiny.encode("Go 🚀")[:-1]
    assert decoder.push(ids) == "Go "
    assert decoder.flush() == REPLACEMENT
    assert decoder.flush() == ""


def test_what_is_no_text_is_not_held_for_ever(tiny: Tokenizer) -> None:
    """A model may generate nothing but continuation bytes."""
    (stray,) = tiny.encode("🚀")[-1:]
    decoder = tiny.stream()
    text = "".join(decoder.push([stray]) for _ in range(500))
    assert len(text) > 400
    assert len(text + decoder.flush()) == 500


def streamed(tokenizer: Tokenizer, ids: list[int], cuts: set[int]) -> str:
    decoder = tokenizer.stream()
    ends = sorted(cuts | {0, len(ids)})
    return "".join(decoder.push(ids[a:b]) for a, b in pairwise(ends)) + decoder.flush()


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.integers(0, 2047), max_size=30), cuts=st.sets(st.integers(0, 30)))
def test_a_stream_of_any_ids_is_their_text(tiny: Tokenizer, ids: list[int], cuts: set[int]) -> None:
    """However they are grouped, and where they are not UTF-8 too."""
    assert streamed(tiny, ids, {cut for cut in cuts if cut < len(ids)}) == tiny.decode(ids)


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from(" ▁abé日🚀"), max_size=12), cuts=st.sets(st.integers(0, 30)))
def test_a_stream_with_byte_tokens_is_their_text(text: str, cuts: set[int]) -> None:
    tokenizer = byte_fallback_tokenizer()
    ids = tokenizer.encode(text)
    assert streamed(tokenizer, ids, {cut for cut in cuts if cut < len(ids)}) == tokenizer.decode(
        ids
    )


def test_a_stream_goes_on_after_what_was_there() -> None:
    """A decoder that drops a text's first space must not drop it in the middle of an answer."""
    words = tokenizers.Tokenizer(
        models.WordLevel({"▁Once": 0, "▁upon": 1, "▁a": 2}, unk_token="▁a")
    )
    words.decoder = decoders.Metaspace()
    tokenizer = Tokenizer(words, eos_ids=())
    assert tokenizer.stream().push([1, 2]) == "upon a"
    assert tokenizer.stream(before=[0]).push([1, 2]) == " upon a"


# --- bytes of tokens ---------------------------------------------------------------------------


@given(st.text(max_size=40))
@settings(max_examples=100)
def test_the_bytes_of_tokens_are_those_of_the_text(text: str) -> None:
    tokenizer = Tokenizer.load(TINY)
    ids = tokenizer.encode(text, special_tokens=False)
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_bytes_of_special_and_unknown_tokens(tiny: Tokenizer) -> None:
    ends = {tiny.token_bytes(token) for token in tiny.eos_ids}
    assert ends == {b"<|endoftext|>", b"<|end|>"}
    assert tiny.token_bytes(1 << 20) == b""


def test_bytes_with_byte_fallback() -> None:
    tokenizer = byte_fallback_tokenizer()
    ids = tokenizer.encode("▁a日", special_tokens=False)
    assert b"".join(map(tokenizer.token_bytes, ids)).strip() == "a日".encode()
