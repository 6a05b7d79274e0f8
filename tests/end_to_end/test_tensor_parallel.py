"""Workers of different tensor-parallel degrees serve one prompt together, and end as a whole."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from mserve.runtime.tokenizer import Tokenizer

STRATEGY = """strategy degrees "KV travels between workers of two ranks and of one"

pool wide { gpus = 2 }
pool narrow

let w = next(wide)
let n = next(narrow)

route widening when tokens(prompt) > 100 {
  compute prompt on n
  generate on w
}

route narrowing {
  compute prompt on w
  generate on n
}
"""


def test_degrees_work_together_and_a_rank_that_dies_ends_its_worker(
    serve: Any, tiny: Any, tmp_path: Path
) -> None:
    decode = Tokenizer.load(tiny.folder).decode
    path = tmp_path / "degrees.mserve"
    path.write_text(STRATEGY, "utf-8")
    with serve(str(path), "--served-model-name", "served", "--checksum-kv") as server:
        for route, length in {"narrowing": 90, "widening": 150}.items():
            prompt = tuple(100 + (number * number) % 400 for number in range(length))
            body = {"model": "served", "prompt": prompt, "max_tokens": 8, "temperature": 0}
            status, answer, headers = server.ask("/v1/completions", body | {"ignore_eos": True})
            assert status == 200, answer
            assert f"route={route}" in headers["x-mserve-plan"]
            assert answer["choices"][0]["text"] == decode(tiny.answer(prompt, 8))

        ((engine, rank),) = ranks_of(server)
        os.kill(rank, signal.SIGKILL)
        deadline_s = time.monotonic() + 20
        while Path(f"/proc/{engine}").exists() or not says(server, "killed by SIGKILL"):
            assert time.monotonic() < deadline_s, "".join(server.log)
            time.sleep(0.02)
        assert says(server, "the engine process ends: Rank 1 of 2 was killed by SIGKILL")


def ranks_of(server: Any) -> list[tuple[int, int]]:
    """(engine process, rank 1) of every worker that has one."""
    engines = [engine for _, engine in server.workers()]
    found = ((pid, Path(f"/proc/{pid}/task/{pid}/children").read_text()) for pid in engines)
    return [(pid, int(ranks)) for pid, ranks in found if ranks]


def says(server: Any, sentence: str) -> bool:
    return any(sentence in line for line in server.log)
