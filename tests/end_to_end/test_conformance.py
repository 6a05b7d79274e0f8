"""docs/openai.md is so: each row of its tables is sent to real workers, and no row is missing.

A supported parameter has a function here that shows what it does; the rows of the other tables say
themselves what to send and what must come back.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params

from mserve.runtime.config import shipped_model
from mserve.runtime.router.openai import ChatBody, CompletionBody
from mserve.runtime.tokenizer import Tokenizer

PAGE = (Path(__file__).parents[2] / "docs" / "openai.md").read_text("utf-8")
TOKENIZER = Tokenizer.load(shipped_model())
EOS = 4  # of the small model: the end of a turn
WORDS = [
    TOKENIZER.encode(word)[-1] for word in ("a", "the", "and", "was", "he", "she", "it", "they")
]
BLANKS = {str(TOKENIZER.encode(blank)[-1]) for blank in (" ", "\n", "\t", "  ", "\n\n")}

Endpoint = Literal["completions", "chat"]
ENDPOINTS: tuple[Endpoint, ...] = ("completions", "chat")


@dataclass(frozen=True)
class Row:
    """A line of a table, at one endpoint. `subject` is its first cell, `note` the last."""

    endpoint: Endpoint
    subject: str
    note: str

    @property
    def body(self) -> dict[str, Any]:
        sent: dict[str, Any] = json.loads("{" + self.subject + "}")
        return sent


def lines(heading: str) -> Iterator[list[str]]:
    """The cells of every row of every table under a heading; code marks are taken off the first."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading)]
    for line in re.findall(r"^\| (`.*)\|$", text, re.MULTILINE):
        subject, *rest = (cell.strip() for cell in line.split(" |"))
        yield [subject.strip("`"), *rest]


def rows(heading: str) -> list[Row]:
    found = []
    for subject, completions, chat, note in lines(heading):
        marks = {"completions": completions, "chat": chat}
        assert set(marks.values()) <= {"yes", ""}, f"{subject}: yes or nothing"
        found += [Row(each, subject, note) for each in ENDPOINTS if marks[each]]
    return found


SUPPORTED, HARMLESS, REFUSED = rows("Supported"), rows("Accepted, without a"), rows("Refused")


def name_of(row: Row) -> str:
    return f"{row.endpoint} {row.subject}"[:60]


Case = Callable[[Any], None]


def model(api: Any) -> None:
    assert api.ask({"model": "mserve-tiny"})["model"] == "mserve-tiny"


def prompt(api: Any) -> None:
    tokens = TOKENIZER.encode(api.TEXT)
    for same in (tokens, [api.TEXT], [tokens]):
        assert api.text({"prompt": same}) == api.greedy
    both = api.ask({"prompt": [api.TEXT, "One day"]})["choices"]
    assert [c["text"] for c in both] == [api.greedy, api.text({"prompt": "One day"})]


def messages(api: Any) -> None:
    parts = [{"type": "text", "text": api.TEXT[:9]}, {"type": "text", "text": api.TEXT[9:]}]
    assert api.text({"messages": [{"role": "user", "content": parts}]}) == api.greedy
    talk = [{"role": role, "content": "Hello."} for role in ("system", "user", "assistant", "user")]
    sent = api.ask({"messages": talk})
    assert sent["usage"]["prompt_tokens"] > api.ask({})["usage"]["prompt_tokens"]
    developer = [{"role": "developer", "content": "Hello."}, *talk[1:]]
    assert api.text({"messages": developer}) == api.text_of(sent["choices"][0])
    idle = {"tool_calls": None, "function_call": None, "audio": None, "refusal": None}
    again = [*talk[:2], talk[2] | idle | {"annotations": []}, talk[3] | {"name": "ada"}]
    assert api.text({"messages": again}) == api.text_of(sent["choices"][0])


def max_tokens(api: Any) -> None:
    answer = api.ask({"max_tokens": 3})
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["finish_reason"] == "length"


def max_completion_tokens(api: Any) -> None:
    answer = api.ask({"max_tokens": 5, "max_completion_tokens": 2})
    assert answer["usage"]["completion_tokens"] == 2


def n(api: Any) -> None:
    answer = api.ask(api.WARM | {"n": 3})
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    alone = [api.text(api.WARM | {"seed": api.WARM["seed"] + number}) for number in range(3)]
    assert [api.text_of(choice) for choice in answer["choices"]] == alone
    assert len(set(alone)) == 3


def stream(api: Any) -> None:
    events = api.events({})
    assert api.text({"stream": True}) == api.greedy
    kind = "chat.completion.chunk" if api.is_chat else "text_completion"
    assert {event["object"] for event in events} == {kind}
    assert [event["choices"][0]["finish_reason"] for event in events][-1] == "length"
    assert not [event for event in events if "usage" in event]


def stream_options_include_usage(api: Any) -> None:
    *others, last = api.events({"stream_options": {"include_usage": True}})
    assert last["choices"] == []
    assert {k: last["usage"][k] for k in COUNTS} == {k: api.ask({})["usage"][k] for k in COUNTS}
    assert not [event for event in others if "usage" in event]


COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def temperature(api: Any) -> None:
    assert api.text({"temperature": 0}) == api.text({"top_k": 1, "temperature": 1})
    assert api.warm != api.greedy


def only_the_most_probable(field: str, value: float) -> Case:
    """A truncation so narrow that one token is left."""

    def case(api: Any) -> None:
        assert api.text(api.WARM | {field: value}) == api.greedy != api.warm

    return case


def seed(api: Any) -> None:
    warm = {"temperature": 1}
    assert api.text(warm | {"seed": 1}) == api.text(warm | {"seed": 1})
    assert api.text(warm | {"seed": 1}) != api.text(warm | {"seed": -2})


def stop(api: Any) -> None:
    free = api.text({"max_tokens": 12})
    end = free[len(free) // 2 :][:3]
    for stops in (end, ["never said", end]):
        (choice,) = api.ask({"max_tokens": 12, "stop": stops})["choices"]
        assert api.text_of(choice) == free.partition(end)[0]
        assert choice["finish_reason"] == "stop"


def num_distinct(api: Any, fields: Mapping[str, Any]) -> int:
    """How many of ten likely words a long answer is made of."""
    bias = {str(word): 30 for word in WORDS}
    text = api.text({"logit_bias": bias, "max_tokens": 20, "ignore_eos": True, **fields})
    return len(set(TOKENIZER.encode(text)))


def more_words(field: str, low: float, high: float) -> Case:
    def case(api: Any) -> None:
        assert num_distinct(api, {field: high}) > num_distinct(api, {field: low})

    return case


def logit_bias(api: Any) -> None:
    word = str(WORDS[0])
    assert set(TOKENIZER.encode(api.text({"logit_bias": {word: 100}}))) == {WORDS[0]}
    (first,) = TOKENIZER.encode(api.text({"max_tokens": 1}))[:1]
    assert not api.text({"logit_bias": {str(first): -100}}).startswith(api.text({"max_tokens": 1}))


def logprobs(api: Any) -> None:
    (choice,) = api.ask({"logprobs": True if api.is_chat else 2})["choices"]
    found = choice["logprobs"]
    if api.is_chat:
        assert "".join(entry["token"] for entry in found["content"]) == api.greedy
        assert [entry["top_logprobs"] for entry in found["content"]] == [[]] * api.NUM_TOKENS
        return
    assert "".join(found["tokens"]) == choice["text"] == api.greedy
    assert [len(top) for top in found["top_logprobs"]] == [2] * api.NUM_TOKENS
    assert all(own == max(top.values()) <= 0 for own, top in zip(
        found["token_logprobs"], found["top_logprobs"], strict=True))  # fmt: skip
    assert found["text_offset"] == [
        len("".join(found["tokens"][:at])) for at in range(api.NUM_TOKENS)
    ]


def top_logprobs(api: Any) -> None:
    (choice,) = api.ask({"logprobs": True, "top_logprobs": 3})["choices"]
    for entry in choice["logprobs"]["content"]:
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0]["token"] == entry["token"], "greedy"
        assert bytes(entry["bytes"]).decode() == entry["token"]


def echo(api: Any) -> None:
    assert api.text({"echo": True}) == api.TEXT + api.greedy
    assert api.text({"echo": True, "stream": True}) == api.TEXT + api.greedy


SCHEMA = {
    "type": "object",
    "properties": {"old": {"type": "boolean"}},
    "required": ["old"],
    "additionalProperties": False,
}
DENSE = {"max_tokens": 60, "logit_bias": dict.fromkeys(BLANKS, -100)}


def response_format(api: Any) -> None:
    assert api.text({"response_format": {"type": "text"}}) == api.greedy
    brace = str(TOKENIZER.encode("}")[-1])
    soon = {"response_format": {"type": "json_object"}, "logit_bias": {brace: 100}}
    assert json.loads(api.text(soon)) == {}
    for strict in (True, False):
        named = {"name": "sea", "schema": SCHEMA, "strict": strict}
        wanted = {"type": "json_schema", "json_schema": named}
        check_sea(api.text({"response_format": wanted, **DENSE}))


def structured_json(api: Any) -> None:
    check_sea(api.text({"structured_outputs": {"json": SCHEMA}, **DENSE}))


def check_sea(text: str) -> None:
    found = json.loads(text)
    assert found.keys() == {"old"}
    assert isinstance(found["old"], bool)


def formed(form: str, value: Any, pattern: str) -> Case:
    def case(api: Any) -> None:
        (choice,) = api.ask({"structured_outputs": {form: value}, "max_tokens": 40})["choices"]
        assert re.fullmatch(pattern, api.text_of(choice)), api.text_of(choice)
        assert choice["finish_reason"] == "stop"

    return case


ENDING = {"logit_bias": {str(EOS): 100}}  # an answer that wants to end at once


def min_tokens(api: Any) -> None:
    assert api.ask(ENDING)["usage"]["completion_tokens"] == 1
    assert api.ask(ENDING | {"min_tokens": 4})["usage"]["completion_tokens"] == 5
    short = {"structured_outputs": {"choice": ["a"]}, "min_tokens": 4}
    assert api.text(short) == "a"


def ignore_eos(api: Any) -> None:
    assert api.ask(ENDING)["choices"][0]["finish_reason"] == "stop"
    assert api.ask(ENDING | {"ignore_eos": True})["usage"]["completion_tokens"] == api.NUM_TOKENS


def stop_token_ids(api: Any) -> None:
    often = {"logit_bias": {str(WORDS[1]): 100}}
    answer = api.ask(often | {"stop_token_ids": [WORDS[1]]})
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert api.text_of(answer["choices"][0]) == ""
    assert api.text(often) != ""


CASES: Mapping[str, Case] = {
    "model": model,
    "prompt": prompt,
    "messages": messages,
    "max_tokens": max_tokens,
    "max_completion_tokens": max_completion_tokens,
    "n": n,
    "stream": stream,
    "stream_options.include_usage": stream_options_include_usage,
    "temperature": temperature,
    "top_p": only_the_most_probable("top_p", 1e-6),
    "top_k": only_the_most_probable("top_k", 1),
    "min_p": only_the_most_probable("min_p", 1),
    "seed": seed,
    "stop": stop,
    "presence_penalty": more_words("presence_penalty", -2, 2),
    "frequency_penalty": more_words("frequency_penalty", -2, 2),
    "repetition_penalty": more_words("repetition_penalty", 0.7, 1.5),
    "logit_bias": logit_bias,
    "logprobs": logprobs,
    "top_logprobs": top_logprobs,
    "echo": echo,
    "response_format": response_format,
    "stop_token_ids": stop_token_ids,
    "min_tokens": min_tokens,
    "ignore_eos": ignore_eos,
    "structured_outputs.json": structured_json,
    "structured_outputs.regex": formed("regex", "[a-z]{3} [0-9]{2}", "[a-z]{3} [0-9]{2}"),
    "structured_outputs.choice": formed("choice", ["low tide", "high tide"], "(low|high) tide"),
    "structured_outputs.grammar": formed("grammar", 'start: "sea"{1,3} "!"', "(sea){1,3}!"),
}


@pytest.fixture(scope="module", params=["data_parallel", "prefill_decode"])
def server(request: pytest.FixtureRequest, serve: Any) -> Iterator[Any]:
    with serve(request.param, "--threads", "1") as running:  # other tests need the other core
        yield running


@pytest.fixture(scope="module")
def apis(completions: Any, chat: Any) -> dict[Endpoint, Any]:
    return {"completions": completions, "chat": chat}


@pytest.mark.parametrize("row", SUPPORTED, ids=name_of)
def test_supported(apis: dict[Endpoint, Any], row: Row) -> None:
    CASES[row.subject](apis[row.endpoint])


@pytest.mark.parametrize("row", HARMLESS, ids=name_of)
def test_accepted_without_a_change(apis: dict[Endpoint, Any], row: Row) -> None:
    api = apis[row.endpoint]
    assert api.text(api.WARM | row.body) == api.warm


@pytest.mark.parametrize("row", REFUSED, ids=name_of)
def test_refused_with_these_words(apis: dict[Endpoint, Any], row: Row) -> None:
    status, answer = apis[row.endpoint].send(row.body)
    assert answer["error"]["message"] == row.note
    assert answer["error"]["param"] in row.body
    assert status == (404 if "model" in row.body else 400)


def test_out_of_scope(server: Any) -> None:
    paths = [path for path, _ in lines("Out of scope")]
    assert len(paths) > 5
    assert {path: server.ask(path, {})[0] for path in paths} == dict.fromkeys(paths, 404)


def test_every_supported_row_has_a_test_and_every_test_a_row() -> None:
    assert {row.subject for row in SUPPORTED} == CASES.keys()


def test_no_row_stands_twice() -> None:
    every = [(row.endpoint, row.subject) for row in (*SUPPORTED, *HARMLESS, *REFUSED)]
    assert len(every) == len(set(every))
    assert len(every) > 150


def documented(endpoint: Endpoint) -> set[str]:
    found = {r.subject.partition(".")[0] for r in SUPPORTED if r.endpoint == endpoint}
    return found.union(*(row.body for row in HARMLESS if row.endpoint == endpoint))


def test_every_parameter_of_the_api_and_of_this_server_is_there() -> None:
    """OpenAI's parameters are those of its own client."""
    completion: Any = completion_params.CompletionCreateParamsStreaming
    chat: Any = chat_params.CompletionCreateParamsStreaming
    accepted = {
        "completions": CompletionBody.model_fields.keys() | CompletionBody.idle.keys(),
        "chat": ChatBody.model_fields.keys() | ChatBody.idle.keys(),
    }
    assert accepted["completions"] == documented("completions") >= get_type_hints(completion).keys()
    assert accepted["chat"] == documented("chat") >= get_type_hints(chat).keys()


def test_what_does_not_change_an_answer_is_refused_where_it_would() -> None:
    """Every field with an idle value has a value that is refused by name."""
    for endpoint, idle in (("completions", CompletionBody.idle), ("chat", ChatBody.idle)):
        refused = {name for row in REFUSED if row.endpoint == endpoint for name in row.body}
        missing = idle.keys() - refused - {"parallel_tool_calls"}  # both its values are idle
        assert not missing, endpoint
