"""`mserve demo`: one long prompt through a real cluster on this machine, then what happened when.

Everything is the real thing: the same processes, sockets and HTTP calls as `mserve serve`. This
module is only a client and a printer.
"""

import asyncio
import http.client
import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from mserve.compiler.observe import Strategy
from mserve.runtime.config import EngineOptions, ServeOptions, model_name, shipped_model
from mserve.runtime.errors import MserveError
from mserve.runtime.router.timeline import render_timeline
from mserve.runtime.serving import serve_cluster

MAX_TOKENS = 120
SEED = 7
STORY = """\
The little girl opened the door and went into the garden. It was early in the morning, and the \
grass was still wet. A robin sat upon the wall and looked at her with his bright black eyes, as if \
he wished to say something very particular. "Good morning," said the girl. "Have you had your \
breakfast?" The robin hopped along the wall and came a little nearer, and she thought that she had \
never seen anything so pretty in all her life. She walked down the long path between the old trees \
until she came to a green door, which she had never seen before. It was covered with ivy, and there \
was no handle upon it anywhere. "Now this is very curious," she said to herself, "for I am sure \
that it was not here yesterday."

She knocked three times, and waited, and listened. At first there was no sound at all but the wind \
in the leaves. Then somebody on the other side said, in a small, cross voice, "Who is it, and what \
do you want at this time of the day?" "If you please," answered the girl, "I am looking for the \
way to the sea, and I thought that there might be a path through your garden." There was a long \
silence. Then the door was opened, only a little way, and an old man with a white beard put out \
his head and looked her up and down. "The sea," said he, "is a good long way from here; but if you \
are not afraid of the dark wood, nor of the three bridges, nor of the old woman who lives in the \
mill, I can tell you how to go."

"First you must go through the wood, and you must not leave the path, whatever you may hear. Then \
you will come to the first bridge, and there you must give the miller's dog a piece of bread, or he \
will not let you pass. After that nobody can tell you anything, for nobody has ever come back to \
say what he saw there."

"I am not afraid," said the girl, though her heart beat fast. So the old man took her by the hand \
and led her in, and shut the door behind them. Inside it was quite a different country. The sun \
shone, though it had been gray outside, and the flowers were as tall as she was, and every one of \
them turned its head to look at her as she went by. They walked and walked until they came to a \
little house with a red roof, and before the house sat a large gray cat, washing its face. "Here is \
the girl," said the old man. "So I see," said the cat. "Give her some bread and milk, and then \
"""


async def run_demo(strategy: Strategy, strategy_name: str) -> int:
    """Serves, asks once, prints words and timeline, stops everything. Returns the exit code."""
    stop = asyncio.Event()
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    model = shipped_model()
    options = ServeOptions(
        model=model,
        served_model=model_name(model),
        port=0,
        engine=EngineOptions(kv_memory_bytes=64 << 20),
    )
    _say(f"Starting Redis, the workers of {strategy_name} and the router ...")
    serving = asyncio.create_task(serve_cluster(strategy, options, stop, ready.set_result))
    try:
        await asyncio.wait((serving, ready), return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            await asyncio.to_thread(_ask, ready.result(), options.served_model)
    finally:
        stop.set()
        await serving
    return 0


def _ask(url: str, model: str) -> None:
    """The client: a streamed completion, then the plan that carried it."""
    body = {
        "model": model,
        "prompt": STORY,
        "max_tokens": MAX_TOKENS,
        "temperature": 0.7,
        "seed": SEED,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    _say(f"POST {url}/v1/completions: the prompt is a story that breaks off; it goes on like this:")
    print("\n  ... " + STORY.strip().splitlines()[-1][-76:], end=" ", flush=True)
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)) as connection:
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        if response.status != 200:
            raise MserveError(f"The request failed: {response.read().decode()}")
        usage = _print_words(response)
        plan_id = response.headers["x-mserve-plan"].partition(";")[0]
        record = _finished_plan(connection, plan_id)
    _say(
        f"\n{usage['prompt_tokens']} prompt tokens, {usage['completion_tokens']} generated."
        f" The plan as it was executed (GET /v1/plans/{plan_id}):\n"
    )
    print(render_timeline(record))


def _finished_plan(connection: http.client.HTTPConnection, plan_id: str) -> dict[str, Any]:
    """The plan's record once its last reports are in, which may be just after the last word."""
    for _ in range(100):
        connection.request("GET", f"/v1/plans/{plan_id}")
        record: dict[str, Any] = json.load(connection.getresponse())
        if record["state"] != "running":
            break
        time.sleep(0.02)
    return record


def _print_words(response: http.client.HTTPResponse) -> dict[str, Any]:
    """Prints the text as it comes; returns the usage that ends the stream."""
    usage: dict[str, Any] = {}
    for event in _events(response):
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            print(choice["text"], end="", flush=True)
    print()
    return usage


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            yield json.loads(line[6:])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
