"""The ranks of a tensor-parallel model, as rank 0 sees them: it is the engine process and drives; the
others are processes that it starts (rank.py), which do what they are told and end with it.

Each has its own heads' KV; `ParallelKv` makes it the KV of one worker again. Commands go over a pipe
to each rank and KV through memory shared with it; sums within a step are parallel.py's.
"""

import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from mserve.runtime.cluster.launch import dies_with_parent
from mserve.runtime.engine.batching import LayerHook, Pages
from mserve.runtime.engine.inputs import Indices, StepInputs, page_indices
from mserve.runtime.engine.kv_pool import KvPool
from mserve.runtime.engine.model_config import ModelConfig
from mserve.runtime.engine.moves import Moves
from mserve.runtime.engine.parallel import RankFailure, Shard, join
from mserve.runtime.engine.rank_messages import (
    SHARED_BYTES,
    Allocate,
    Answer,
    Command,
    Go,
    RankSpec,
    Step,
    Transfer,
)
from mserve.runtime.errors import ConfigError

_END_TIMEOUT_S = 2.0

Bytes = NDArray[np.uint8]
OnLost = Callable[[str], None]
"""Called from a thread, with a sentence, when a rank ends that nobody stopped."""


class Ranks:
    """Ranks 1 and up. Owns their processes; `close` ends them, as does the end of this process."""

    def __init__(self, config: ModelConfig, degree: int) -> None:
        """`config` is of the whole model. See `start`."""
        self.config = config
        self.degree = degree
        self._others: list[_Rank] = []
        self._closing = False

    @classmethod
    def start(
        cls, config: ModelConfig, spec: RankSpec, devices: Sequence[str], on_lost: OnLost | None
    ) -> tuple["Ranks", Shard]:
        """One rank per device; `spec` is rank 0's, which this process is from now on. Returns when
        all have joined, and before they have loaded anything. Raises ConfigError."""
        listener = socket.create_server(("127.0.0.1", 0))
        spec = replace(spec, degree=len(devices), port=listener.getsockname()[1])
        specs = [replace(spec, rank=rank, device=device) for rank, device in enumerate(devices)]
        ranks = cls(config, len(devices))
        try:
            for each in specs[1:]:
                ranks._others.append(_Rank(each))
            if on_lost is not None:
                ranks._watch(on_lost)
            ranks._hear()
            return ranks, Shard(0, len(devices), join(specs[0], listener))
        except BaseException:
            ranks.close()
            raise
        finally:
            listener.close()

    def allocate(self, num_pages: int, host_pages: int) -> None:
        """Gives each rank its part of so many pages. Raises ConfigError where there is no room."""
        with self.doing(Allocate(num_pages, host_pages)):
            pass

    def begin_moves(self, moves: Moves) -> None:
        """Has the ranks make the moves that this one is about to make."""
        if moves:
            self.ask(moves)

    def begin_step(self, inputs: StepInputs, on_layer: LayerHook | None) -> LayerHook | None:
        """Has the ranks begin the step that this one is about to run, with the hook it returns."""
        self.ask(Step.of(inputs, on_layer is not None))
        if on_layer is None:
            return None

        def then_go(layer: int) -> None:
            on_layer(layer)  # which may transfer KV: the ranks are at the same layer
            self.ask(Go())

        return then_go

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Whatever fails in here has left the ranks waiting for each other in the middle of a step.
        Raises RankFailure."""
        try:
            yield
        except RankFailure:
            raise
        except Exception as error:
            raise RankFailure(f"A step could not be completed on all ranks: {error}") from error

    def ask(self, command: Command) -> None:
        for other in self._others:
            other.tell(command)

    @contextmanager
    def doing(self, command: Allocate | Transfer) -> Iterator[None]:
        """Has the ranks do what they answer, while this one does its part in here. Raises ConfigError
        with the first complaint."""
        self.ask(command)
        try:
            yield
        finally:
            self._hear()

    def _hear(self) -> None:
        """Reads one answer of every rank before it raises ConfigError with the first complaint: one
        left unread would be taken for the next one's."""
        answers = [(other.rank, other.answer()) for other in self._others]
        for rank, complaint in answers:
            if complaint:
                raise ConfigError(f"On rank {rank}: {complaint}")

    def shared(self) -> list[mmap.mmap]:
        """The memory shared with each of ranks 1 and up, `SHARED_BYTES` each."""
        return [other.memory for other in self._others]

    def pids(self) -> list[int]:
        return [other.process.pid for other in self._others]

    def close(self) -> None:
        self._closing = True
        for other in self._others:
            other.close()

    def _watch(self, on_lost: OnLost) -> None:
        for other in self._others:
            threading.Thread(
                target=self._wait_for_end, args=(other, on_lost), name="rank", daemon=True
            ).start()

    def _wait_for_end(self, other: "_Rank", on_lost: OnLost) -> None:
        code = other.process.wait()
        if not self._closing:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited ({code})"
            on_lost(f"Rank {other.rank} of {self.degree} {how}; its part of the model is gone.")


class _Rank:
    """One other rank: its process, the pipe to it and the memory shared with it."""

    def __init__(self, spec: RankSpec) -> None:
        self.rank = spec.rank
        ours, theirs = socket.socketpair()
        memory = os.memfd_create("kv")
        os.ftruncate(memory, SHARED_BYTES)
        fds = (theirs.fileno(), memory)
        try:
            self.memory = mmap.mmap(memory, SHARED_BYTES)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mserve.runtime.engine.rank", *map(str, fds)],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                preexec_fn=dies_with_parent(),
                env={**os.environ, "OMP_NUM_THREADS": str(spec.threads)},
            )
        finally:
            theirs.close()
            os.close(memory)
        self._pipe = Connection(ours.detach())
        self.tell(spec)

    def tell(self, command: Command) -> None:
        try:
            self._pipe.send(command)
        except OSError as error:
            raise self._gone() from error

    def answer(self) -> Answer:
        try:
            found: Answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        return found

    def _gone(self) -> RankFailure:
        return RankFailure(f"Rank {self.rank} of the model is gone.")

    def close(self) -> None:
        """Its end of the pipe tells it; one that computes for ever is killed."""
        self._pipe.close()
        try:
            self.process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with suppress(BufferError):  # of a transfer that failed: the end of the process frees it
            self.memory.close()


# --- all ranks' KV -----------------------------------------------------------------------------


class ParallelKv:
    """Every rank's heads as one `KvStore`: [2, positions, kv_heads, head_dim] on the wire, as if one
    GPU had them all, so workers of different degrees understand each other."""

    def __init__(self, pool: KvPool, ranks: Ranks, shared_bytes: int = SHARED_BYTES) -> None:
        """`shared_bytes`: how much of the memory shared with each rank is used."""
        self.num_layers = pool.num_layers
        self.bytes_per_token_layer = pool.bytes_per_token_layer * ranks.degree
        self._pool = pool
        self._ranks = ranks
        self._own = memoryview(bytearray(shared_bytes))  # of rank 0: its part, as the others' are
        self._most = shared_bytes // pool.bytes_per_token_layer  # positions in a rank's memory

    def read(self, pages: Pages, layer: int, begin: int, end: int, out: memoryview) -> None:
        whole = self._by_rank(out, end - begin)
        for piece in self._pieces(pages, layer, begin, end, is_write=False):
            with self._ranks.doing(piece.command):
                self._pool.read(*piece.arguments, self._own[: piece.num_bytes])
            for rank, part in enumerate(self._parts(piece)):
                whole[:, piece.rows, rank] = part

    def write(self, pages: Pages, layer: int, begin: int, end: int, data: memoryview) -> None:
        whole = self._by_rank(data, end - begin)
        for piece in self._pieces(pages, layer, begin, end, is_write=True):
            for rank, part in enumerate(self._parts(piece)):
                part[:] = whole[:, piece.rows, rank]
            with self._ranks.doing(piece.command):
                self._pool.write(*piece.arguments, self._own[: piece.num_bytes])

    def _by_rank(self, data: memoryview, num_positions: int) -> Bytes:
        """[2 (K, V), positions, ranks, bytes of a rank's heads]"""
        return np.frombuffer(data, np.uint8).reshape(2, num_positions, self._ranks.degree, -1)

    def _parts(self, piece: "_Piece") -> Iterator[Bytes]:
        """Each rank's part of a piece: [2 (K, V), positions, bytes of a rank's heads]."""
        memories: list[memoryview | mmap.mmap] = [self._own, *self._ranks.shared()]
        for memory in memories:
            part = np.frombuffer(memory, np.uint8, piece.num_bytes)
            yield part.reshape(2, piece.rows.stop - piece.rows.start, -1)

    def _pieces(
        self, pages: Pages, layer: int, begin: int, end: int, *, is_write: bool
    ) -> Iterator["_Piece"]:
        """As large as the shared memory; ranks get only the page ids that they need."""
        page_size = self._pool.page_size
        for first in range(begin, end, self._most):
            last = min(end, first + self._most)
            page = first // page_size
            table = page_indices(pages, page, -(-last // page_size))
            offset = page * page_size
            command = Transfer(is_write, table, layer, first - offset, last - offset)
            num_bytes = (last - first) * self._pool.bytes_per_token_layer
            yield _Piece(command, slice(first - begin, last - begin), num_bytes)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Positions whose KV of one rank fits in the shared memory; `rows` among those asked for."""

    command: Transfer
    rows: slice
    num_bytes: int  # of one rank's part

    @property
    def arguments(self) -> tuple[Indices, int, int, int]:
        """Of `KvPool.read` and `write`, before the memory."""
        command = self.command
        return command.pages, command.layer, command.begin, command.end
