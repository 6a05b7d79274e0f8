"""A tensor-parallel model computes what the whole one does, and its KV looks the same from outside."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch

from mserve.runtime.engine import ranks as ranks_module
from mserve.runtime.engine.backend import threads_per_rank
from mserve.runtime.engine.batching import Batch, Chunk, DeviceLost, KvStore, LayerHook
from mserve.runtime.engine.inputs import StepInputs
from mserve.runtime.engine.loading import KvMemory, LoadedModel, load_model, load_runner
from mserve.runtime.engine.model_config import read_config
from mserve.runtime.engine.moves import Moves, PageCopy
from mserve.runtime.engine.parallel import (
    WHOLE,
    RankFailure,
    Shard,
    Sum,
    check_degree,
    rank_devices,
)
from mserve.runtime.engine.rank_messages import Command, RankSpec
from mserve.runtime.engine.ranks import ParallelKv, Ranks, _Rank
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.errors import ConfigError
from mserve.runtime.messages import Sampling

PAGE_SIZE = 8
NUM_PAGES = 24
SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 256,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 12,
    "num_key_value_heads": 6,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "eos_token_id": 1,
}
PROMPT = [(7 * i * i + 3) % 250 for i in range(37)]
FAMILIES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


def folder_of(path: Path, **changes: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(SHAPE | changes))
    return path


def sequence_of(
    prompt: list[int], first_page: int = 0, num_tokens: int = 16, num_computed: int = 0
) -> Sequence:
    num_pages = -(-(len(prompt) + num_tokens) // PAGE_SIZE)
    return Sequence(
        key=f"at {first_page}",
        tokens=array("i", prompt),
        num_prompt=len(prompt),
        sampling=Sampling(max_tokens=num_tokens, temperature=0.0, ignore_eos=True),
        pages=array("i", range(first_page, first_page + num_pages)),
        num_computed=num_computed,
    )


def prefill(
    runner: TorchRunner, sequence: Sequence, begin: int = 0, on_layer: LayerHook | None = None
) -> None:
    chunk = Chunk(sequence, begin, len(sequence.tokens), sample=True)
    output = runner.run(Batch((chunk,), ()), on_layer)
    assert output.tokens is not None, "the chunk asked for a token"
    sequence.num_computed = len(sequence.tokens)
    sequence.tokens.append(output.tokens[0])


def decode(runner: TorchRunner, *sequences: Sequence, steps: int = 12) -> list[list[int]]:
    for _ in range(steps):
        output = runner.run(Batch((), sequences))
        assert output.tokens is not None, "every decode gets a token"
        for sequence, token in zip(sequences, output.tokens, strict=True):
            sequence.num_computed += 1
            sequence.tokens.append(token)
    return [list(sequence.tokens[sequence.num_prompt :]) for sequence in sequences]


def kv_of(store: KvStore, sequence: Sequence, begin: int, end: int, layer: int) -> bytearray:
    data = bytearray((end - begin) * store.bytes_per_token_layer)
    store.read(sequence.pages, layer, begin, end, memoryview(data))
    return data


def numbers(kv: bytearray) -> torch.Tensor:
    return torch.frombuffer(kv, dtype=torch.float32)


# --- shards, without processes -----------------------------------------------------------------


class SumOverThreads:
    """What torch.distributed does between processes."""

    def __init__(self, degree: int) -> None:
        self._barrier = Barrier(degree, timeout=20)
        self._parts = [torch.empty(0)] * degree

    def on(self, rank: int) -> Sum:
        def add(part: torch.Tensor) -> torch.Tensor:
            self._parts[rank] = part
            self._barrier.wait()
            total = torch.stack(self._parts).sum(0)
            self._barrier.wait()
            return total

        return add


def loaded(folder: Path, shard: Shard) -> LoadedModel:
    spec = RankSpec(
        model=str(folder),
        is_dummy=True,
        dtype="float32",
        attention=None,
        page_size=PAGE_SIZE,
        threads=1,
        device="cpu",
    )
    return load_model(spec, shard)


def hidden_of(folder: Path, shard: Shard) -> tuple[torch.Tensor, torch.Tensor]:
    """(hidden states [rows, hidden], KV [layers, 2, pages, page size, kv_heads, head_dim])"""
    runner = loaded(folder, shard).runner(NUM_PAGES)
    chunk = Chunk(sequence_of(PROMPT), 0, len(PROMPT), sample=True)
    hidden = runner.forward(StepInputs.of(Batch((chunk,), ()), PAGE_SIZE), None)
    return hidden, runner.pool.tensor


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("degree", [2, 3])
def test_shards_add_up_to_the_whole_model(tmp_path: Path, family: str, degree: int) -> None:
    folder = folder_of(tmp_path / "model", architectures=[family])
    sums = SumOverThreads(degree)
    with ThreadPoolExecutor(degree) as threads:
        shards = [Shard(rank, degree, sums.on(rank)) for rank in range(degree)]
        parts = list(threads.map(lambda shard: hidden_of(folder, shard), shards))
    hidden, kv = hidden_of(folder, WHOLE)
    for part, _ in parts:
        torch.testing.assert_close(part, hidden, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([part for _, part in parts], dim=4), kv)


def test_memory_for_kv_is_all_ranks_together(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    whole, part = (loaded(folder, shard) for shard in (WHOLE, Shard(0, 3)))
    assert part.page_bytes * 3 == whole.page_bytes
    memory = KvMemory(None, 1 << 20, 0.9, 0, 0, max_batch_tokens=64, max_running=4)
    planned = [model.plan_pages(memory) for model in (whole, part)]
    assert planned[0] == planned[1] == (1 << 20) // whole.page_bytes
    memory = KvMemory(4, None, 0.9, 0, 1 << 20, max_batch_tokens=64, max_running=4)
    pools = [model.runner_with(memory, records=False).pool for model in (whole, part)]
    assert pools[0].host_pages == pools[1].host_pages == (1 << 20) // whole.page_bytes


def test_ranks_share_the_threads() -> None:
    assert [threads_per_rank(6, degree) for degree in (1, 2, 4, 8)] == [6, 3, 1, 1]
    assert threads_per_rank(None, 1) == torch.get_num_threads()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_key_value_heads": 3}, "The model has 3 key-value heads, which 2 GPUs cannot share"),
        ({"intermediate_size": 193}, "has 193 columns in its feed-forward layers, which 2 GPUs"),
    ],
)
def test_a_degree_that_leaves_unequal_parts_is_refused(
    tmp_path: Path, changes: dict[str, int], said: str
) -> None:
    folder = folder_of(tmp_path / "model", **changes)
    with pytest.raises(ConfigError, match=said):
        check_degree(read_config(folder), 2)
    with pytest.raises(ConfigError, match=said):
        load_runner(folder, load="dummy", gpus=2)


def test_ranks_take_consecutive_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    cuda = torch.device("cuda")
    assert rank_devices(torch.device("cpu"), 2) == ["cpu", "cpu"]
    assert rank_devices(cuda, 2) == ["cuda:0", "cuda:1"]
    assert rank_devices(torch.device("cuda:1"), 2, first_gpu=0) == ["cuda:1", "cuda:2"]
    assert rank_devices(cuda, 2, first_gpu=6) == ["cuda:2", "cuda:3"], "counted round and round"
    assert rank_devices(cuda, 2, first_gpu=3) == ["cuda:3", "cuda:0"]
    with pytest.raises(ConfigError, match="`gpus = 2` on cuda:3 needs 5 GPUs; torch sees 4"):
        rank_devices(torch.device("cuda:3"), 2)
    with pytest.raises(ConfigError, match="`gpus = 5` on cuda needs 5 GPUs; torch sees 4"):
        rank_devices(cuda, 5, first_gpu=1)


# --- real ranks --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TorchRunner, TorchRunner]]:
    """The same model on one rank and on two."""
    folder = folder_of(tmp_path_factory.mktemp("parallel") / "model")
    runners = [
        load_runner(
            folder,
            load="dummy",
            page_size=PAGE_SIZE,
            num_pages=NUM_PAGES,
            host_pages=4,
            threads=1,
            gpus=gpus,
        )
        for gpus in (1, 2)
    ]
    yield runners[0], runners[1]
    runners[1].close()


def test_two_ranks_give_the_tokens_of_one(pair: tuple[TorchRunner, TorchRunner]) -> None:
    answers = []
    for runner in pair:
        first, second = sequence_of(PROMPT), sequence_of(PROMPT[5:29], first_page=10)
        prefill(runner, first)
        prefill(runner, second)
        answers.append(decode(runner, first, second))
    assert answers[0] == answers[1]
    assert len(set(answers[0][0])) > 3, "answers that repeat one token would show no error"


def test_the_model_and_its_kv_look_whole(pair: tuple[TorchRunner, TorchRunner]) -> None:
    one, two = pair
    assert two.config == one.config
    assert two.kv.bytes_per_token_layer == one.kv.bytes_per_token_layer
    assert two.pool.bytes_per_token_layer == one.pool.bytes_per_token_layer // 2
    sequence = sequence_of(PROMPT)
    prefill(one, sequence_of(PROMPT))
    prefill(two, sequence)
    for layer in range(one.config.num_layers):
        kv = [numbers(kv_of(runner.kv, sequence, 3, 30, layer)) for runner in pair]
        torch.testing.assert_close(kv[0], kv[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sender", [0, 1])
def test_kv_of_one_degree_continues_on_another(
    pair: tuple[TorchRunner, TorchRunner], sender: int
) -> None:
    there, here = pair[sender], pair[1 - sender]
    sent, received = sequence_of(PROMPT), sequence_of(PROMPT, first_page=12)
    prefill(there, sent)
    end = len(PROMPT) - 1  # the last one runs here, for its logits
    for layer in range(there.config.num_layers):
        kv = kv_of(there.kv, sent, 0, end, layer)
        here.kv.write(received.pages, layer, 0, end, memoryview(kv))
        assert kv_of(here.kv, received, 0, end, layer) == kv
    prefill(here, received, begin=end)
    assert decode(here, received) == decode(there, sent)


def test_long_ranges_go_in_pieces(pair: tuple[TorchRunner, TorchRunner]) -> None:
    two = pair[1]
    assert two.ranks is not None
    sequence = sequence_of(PROMPT)
    prefill(two, sequence)
    whole = kv_of(two.kv, sequence, 2, 36, layer=1)
    kv = ParallelKv(two.pool, two.ranks, shared_bytes=7 * two.pool.bytes_per_token_layer)
    assert kv_of(kv, sequence, 2, 36, layer=1) == whole
    other = sequence_of(PROMPT, first_page=12)
    kv.write(other.pages, 1, 2, 36, memoryview(whole))
    assert kv_of(two.kv, other, 2, 36, layer=1) == whole


def test_a_transfer_that_fails_here_does_not_confuse_the_next(
    pair: tuple[TorchRunner, TorchRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = pair[1]
    sequence = sequence_of(PROMPT)
    prefill(two, sequence)
    before = kv_of(two.kv, sequence, 0, 20, layer=0)
    with monkeypatch.context() as broken:
        broken.setattr(two.pool, "read", raise_value_error)
        with pytest.raises(ValueError, match="this rank's"):
            kv_of(two.kv, sequence, 0, 20, layer=1)
    assert two.ranks is not None
    (other,) = two.ranks._others
    assert not other._pipe.poll(0.3), "an answer was left unread"
    assert kv_of(two.kv, sequence, 0, 20, layer=0) == before


def raise_value_error(*_: object) -> None:
    raise ValueError("this rank's part cannot be read")


def test_kv_is_transferred_between_the_layers_of_a_step(
    pair: tuple[TorchRunner, TorchRunner],
) -> None:
    two = pair[1]
    sequence, other = sequence_of(PROMPT), sequence_of(PROMPT, first_page=12)
    seen = []

    def send(layer: int) -> None:
        kv = kv_of(two.kv, sequence, 0, len(PROMPT), layer)
        two.kv.write(other.pages, layer, 0, len(PROMPT), memoryview(kv))
        seen.append(kv)

    prefill(two, sequence, on_layer=send)
    assert seen == [kv_of(two.kv, sequence, 0, len(PROMPT), layer) for layer in range(3)]
    assert seen == [kv_of(two.kv, other, 0, len(PROMPT), layer) for layer in range(3)]


def test_every_rank_moves_its_pages(pair: tuple[TorchRunner, TorchRunner]) -> None:
    two = pair[1]
    sequence = sequence_of(PROMPT)
    prefill(two, sequence)
    page = kv_of(two.kv, sequence, 8, 16, layer=2)
    two.run(Batch((), (), moves=Moves(saves=((1, 3),))))
    two.run(Batch((), (), moves=Moves(restores=((3, 20),), copies=(PageCopy(1, 21, PAGE_SIZE),))))
    moved = sequence_of([0] * 16, num_tokens=0)
    moved.pages = array("i", [20, 21])
    assert kv_of(two.kv, moved, 0, 16, layer=2) == join_positions(page, page)


def join_positions(first: bytearray, second: bytearray) -> bytearray:
    """Two ranges, each [2 (K, V), positions, ...], as one."""
    halves = [part.chunk(2) for part in (numbers(first), numbers(second))]
    joined = torch.cat([torch.cat(kinds) for kinds in zip(*halves, strict=True)])
    return bytearray(joined.numpy().tobytes())


def test_what_fails_within_a_step_ends_the_ranks(tmp_path: Path) -> None:
    ranks = Ranks(read_config(folder_of(tmp_path)), degree=1)
    with pytest.raises(RankFailure, match="on all ranks: no memory"), ranks.in_step():
        raise torch.OutOfMemoryError("no memory")


class Complaining:
    """A rank that has told what is wrong with it."""

    def __init__(self, rank: int, complaint: str) -> None:
        self.rank = rank
        self.unread = [complaint]

    def tell(self, command: Command) -> None:
        """It has answered already."""

    def answer(self) -> str:
        return self.unread.pop()


def test_every_answer_is_read_before_the_first_complaint_is_raised(tmp_path: Path) -> None:
    ranks = Ranks(read_config(folder_of(tmp_path)), degree=4)
    others: list[Any] = [Complaining(1, ""), Complaining(2, "no room"), Complaining(3, "nor here")]
    ranks._others = others
    with pytest.raises(ConfigError, match=r"^On rank 2: no room$"):
        ranks.allocate(1000, 0)
    assert [other.unread for other in others] == [[], [], []]


def test_ranks_end_if_this_one_cannot_load_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "model")
    ranks, closed = Ranks(read_config(folder), degree=2), list[str]()
    monkeypatch.setattr(Ranks, "start", lambda *_: (ranks, Shard(0, 2)))
    monkeypatch.setattr(ranks, "close", lambda: closed.append("ranks"))
    with pytest.raises(ConfigError, match="safetensors"):
        load_runner(folder, gpus=2)
    assert closed == ["ranks"]


# --- ranks that die ----------------------------------------------------------------------------

RANK_ZERO = """
import signal, sys
from mserve.runtime.engine.loading import load_runner
say = lambda text: print(text, flush=True)
runner = load_runner(
    sys.argv[1], load="dummy", num_pages=4, threads=3, gpus=3, on_lost_rank=say
)
say(" ".join(map(str, runner.ranks.pids())))
signal.pause()
"""


def test_ranks_end_with_rank_0_which_hears_of_their_end(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", RANK_ZERO, str(folder_of(tmp_path / "model"))]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as rank_0:
        try:
            assert rank_0.stdout is not None
            first, second = map(int, rank_0.stdout.readline().split())
            os.kill(first, signal.SIGKILL)
            heard = rank_0.stdout.readline().strip()
            assert heard == "Rank 1 of 3 was killed by SIGKILL; its part of the model is gone."
            assert is_running(second)
        finally:
            rank_0.kill()
    deadline_s = time.monotonic() + 5
    while is_running(second):
        assert time.monotonic() < deadline_s, "a rank goes on without rank 0"
        time.sleep(0.02)


def test_a_rank_that_dies_within_a_step_fails_it_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one waits for a sum with it, for which minutes are allowed."""
    lost: list[str] = []
    runner = load_runner(
        folder_of(tmp_path / "model"),
        load="dummy",
        page_size=PAGE_SIZE,
        num_pages=NUM_PAGES,
        threads=1,
        gpus=2,
        on_lost_rank=lost.append,
    )
    assert runner.ranks is not None
    (pid,) = runner.ranks.pids()
    append = runner.pool.append

    def kill_at_the_second(layer: int, *rest: torch.Tensor) -> None:
        if layer == 1:
            os.kill(pid, signal.SIGKILL)
        append(layer, *rest)

    monkeypatch.setattr(runner.pool, "append", kill_at_the_second)
    began_s = time.monotonic()
    with pytest.raises(RankFailure, match="A step could not be completed on all ranks"):
        prefill(runner, sequence_of(PROMPT))
    assert time.monotonic() - began_s < 5
    wait_for_watchers()
    assert lost == ["Rank 1 of 2 was killed by SIGKILL; its part of the model is gone."]
    with pytest.raises(DeviceLost, match="Rank 1 of the model is gone"):
        prefill(runner, sequence_of(PROMPT))
    runner.close()


def test_a_rank_that_is_closed_is_reaped_and_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that does not hear of it, as it computes; here it does not run at all."""
    monkeypatch.setattr(ranks_module, "_END_TIMEOUT_S", 0.05)
    folder, lost = folder_of(tmp_path / "model"), list[str]()
    ranks = Ranks(read_config(folder), degree=2)
    other = _Rank(RankSpec(str(folder), True, "float32", None, PAGE_SIZE, threads=1, rank=1))
    ranks._others.append(other)
    os.kill(other.process.pid, signal.SIGSTOP)
    ranks._watch(lost.append)
    ranks.close()
    assert not Path(f"/proc/{other.process.pid}").exists(), "neither running nor a zombie"
    wait_for_watchers()
    assert lost == []


def wait_for_watchers() -> None:
    for thread in threading.enumerate():
        if thread.name == "rank":
            thread.join(5)
            assert not thread.is_alive(), "the end of a rank is not noticed"


def is_running(pid: int) -> bool:
    """Not a zombie either."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
