"""MLC-LLM's router drives these workers: the calls that its code makes, in both published spellings."""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

PROMPT = list(range(5, 605))
# What `CompletionRequest.model_dump()` of MLC-LLM gives for a request with few fields set.
REQUEST: dict[str, Any] = {
    "model": None,
    "prompt": PROMPT,
    "best_of": 1,
    "echo": False,
    "frequency_penalty": None,
    "presence_penalty": None,
    "logprobs": None,
    "logit_bias": None,
    "max_tokens": 12,
    "n": 1,
    "seed": None,
    "stop": None,
    "stream": True,
    "stream_options": None,
    "suffix": None,
    "temperature": 0.0,
    "top_p": None,
    "user": None,
    "response_format": None,
    "debug_config": {
        "ignore_eos": True,
        "pinned_system_prompt": False,
        "special_request": None,
        "grammar_execution_mode": "jump_forward",
        "disagg_config": None,
    },
}
SPELLINGS = {
    "begin and end": ("begin", "end", "kv_addr_info", "recv_rank"),
    "kv_window": ("kv_window_begin", "kv_window_end", "kv_append_metadata", "dst_group_offset"),
}


class Worker:
    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.url = url
        self.headers = headers

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        status, data = self.raw(path, body)
        return status, json.loads(data)

    def raw(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)) as line:
            headers = {"content-type": "application/json", **self.headers}
            line.request("POST", path, json.dumps(body), headers)
            response = line.getresponse()
            return response.status, response.read()

    def texts(self, path: str, body: dict[str, Any]) -> str:
        """A stream's text, read as MLC-LLM's router reads it."""
        status, data = self.raw(path, body)
        assert status == 200, data
        lines = [line.strip()[6:].strip() for line in data.split(b"\n") if line.strip()]
        assert lines[-1] == b"[DONE]"
        events = [json.loads(line) for line in lines[:-1]]
        assert events[-1]["choices"][0]["finish_reason"] == "length"
        return "".join(event["choices"][0]["text"] for event in events)

    def state(self) -> Any:
        request = Request(f"{self.url}/v1/microserving/state", headers=self.headers)
        with urlopen(request, timeout=5) as response:
            return json.load(response)


Pair = tuple[Worker, Worker]


@pytest.fixture(scope="module")
def pair(serve: Any) -> Iterator[Pair]:
    with serve("prefill_decode") as server:
        with urlopen(f"{server.url}/v1/cluster", timeout=5) as response:
            urls = {worker["name"]: worker["url"] for worker in json.load(response)["workers"]}
        headers = server.worker_headers
        yield Worker(urls["prefill-0"], headers), Worker(urls["decode-0"], headers)


def disaggregated(
    pair: Pair, user: str, prompt: list[int], end: int, spelling: str = "begin and end"
) -> tuple[str, int]:
    """What `_handle_completion_disagg` does; the text, and what the receiver had of the prompt."""
    begin_name, end_name, metadata_name, rank_name = SPELLINGS[spelling]
    prefill, decode = pair
    request = {**REQUEST, "prompt": prompt, "user": user}
    status, prepared = decode.post("/microserving/prep_recv", {**request, end_name: end})
    assert status == 200, prepared
    assert prepared["prompt_length"] == len(prompt)
    matched = prepared["prefix_matched_length"]
    end = len(prompt) + end if end < 0 else end
    assert matched <= end
    if matched < end:
        send = {begin_name: matched, end_name: end, rank_name: 1}
        send[metadata_name] = prepared["kv_append_metadata"]
        assert prefill.post("/microserving/remote_send", {**request, **send}) == (200, {})
    text = decode.texts("/microserving/start_generate", {**request, begin_name: end})
    return text, matched


def reference(worker: Worker, prompt: list[int]) -> str:
    """As the router sends requests round robin."""
    return worker.texts("/v1/completions", {**REQUEST, "prompt": prompt})


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("end", [-1, 300])
def test_disaggregated_text_is_that_of_one_worker(pair: Pair, spelling: str, end: int) -> None:
    prompt = [7 + len(spelling), 9 + end % 5, *PROMPT]
    text, _ = disaggregated(pair, f"{spelling} {end}", prompt, end, spelling)
    assert text == reference(pair[0], prompt)


@pytest.mark.parametrize("warm", [0, 1], ids=["sender", "receiver"])
def test_either_side_may_have_a_prefix(pair: Pair, warm: int) -> None:
    prompt = [40 + warm, *PROMPT]
    expected = reference(pair[warm], prompt)
    text, matched = disaggregated(pair, f"warm {warm}", prompt, -1)
    assert text == expected
    assert matched > 500 if warm else matched == 0


def test_a_sequence_may_come_again(pair: Pair) -> None:
    """As after a preemption: the router makes all calls once more, under the same name."""
    prompt = [50, *PROMPT]
    first, _ = disaggregated(pair, "again", prompt, -1)
    second, matched = disaggregated(pair, "again", prompt, -1)
    assert first == second
    assert matched > 500


def test_whole_answers_without_a_stream(pair: Pair) -> None:
    request = {**REQUEST, "stream": False, "user": "whole"}
    status, answer = pair[0].post("/v1/completions", request)
    assert status == 200
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == reference(pair[0], PROMPT)
    assert answer["usage"]["completion_tokens"] == 12


def test_nothing_is_left_afterwards(pair: Pair) -> None:
    for worker in pair:
        state = worker.state()
        assert not state["plans"]
        assert not state["tickets"]
        assert state["kv"]["kv_used_tokens"] == 0


@pytest.mark.parametrize(
    ("path", "changes", "param"),
    [
        ("/microserving/prep_recv", {"end": 5}, "user"),
        ("/microserving/prep_recv", {"user": "bad"}, "end"),
        ("/microserving/prep_recv", {"user": "bad", "end": 5, "n": 2}, "n"),
        ("/microserving/prep_recv", {"user": "bad", "end": 5, "logprobs": 1}, "logprobs"),
        (
            "/microserving/remote_send",
            {"user": "bad", "begin": 0, "end": 5, "kv_addr_info": "x"},
            "kv_append_metadata",
        ),
        ("/microserving/start_generate", {"user": "bad"}, "begin"),
        ("/microserving/start_generate", {"user": "bad", "begin": 1, "prompt": []}, "prompt"),
    ],
)
def test_what_is_wrong_is_named(pair: Pair, path: str, changes: dict[str, Any], param: str) -> None:
    status, problem = pair[0].post(path, {**REQUEST, **changes})
    assert status == 400
    assert problem["param"] == param
