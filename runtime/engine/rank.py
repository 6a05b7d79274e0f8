"""Ranks 1 and up of a tensor-parallel model: `python -m mserve.runtime.engine.rank PIPE MEMORY`.

Loads its part of the model, then does what rank 0 says over the pipe, in that order. Samples nothing
and decides nothing. Ends when rank 0 does: by the end of the pipe, or killed by the kernel.
"""

import logging
import mmap
import os
import signal
import sys
from multiprocessing.connection import Connection

from mserve.runtime.engine.loading import LoadedModel, load_model
from mserve.runtime.engine.moves import Moves
from mserve.runtime.engine.parallel import Shard, join
from mserve.runtime.engine.rank_messages import (
    SHARED_BYTES,
    Allocate,
    Answer,
    Go,
    RankSpec,
    Step,
    Transfer,
)
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.errors import ConfigError

logger = logging.getLogger("mserve.rank")


class Rank:
    """One rank at its work."""

    def __init__(self, pipe: Connection, memory: mmap.mmap, model: LoadedModel) -> None:
        self._pipe = pipe
        self._memory = memoryview(memory)
        self._model = model
        self._runner: TorchRunner | None = None

    def serve(self) -> None:
        """Until a Go. Raises EOFError when rank 0 has gone."""
        while True:
            match self._pipe.recv():
                case Go():
                    return
                case Moves() as moves:
                    self._at_work().pool.move(moves)
                case Step() as step:
                    self._run(step)
                case Transfer() as transfer:
                    self._transfer(transfer)
                    self._answer("")
                case Allocate() as allocate:
                    self._answer(self._allocate(allocate))
                case command:
                    raise AssertionError(f"{command!r} is no command to a rank at work")

    def _allocate(self, wanted: Allocate) -> Answer:
        self._runner = None  # what was there before is given back first
        try:
            self._runner = self._model.runner(wanted.num_pages, wanted.host_pages)
        except ConfigError as error:
            return str(error)
        return ""

    def _run(self, step: Step) -> None:
        self._at_work().forward(step.inputs, self._pause if step.by_layer else None)

    def _pause(self, layer: int) -> None:
        self.serve()

    def _transfer(self, transfer: Transfer) -> None:
        pool = self._at_work().pool
        num_bytes = (transfer.end - transfer.begin) * pool.bytes_per_token_layer
        copy = pool.write if transfer.is_write else pool.read
        copy(
            transfer.pages,
            transfer.layer,
            transfer.begin,
            transfer.end,
            self._memory[:num_bytes],
        )

    def _at_work(self) -> TorchRunner:
        assert self._runner is not None, "a rank gets its pages before its first step"
        return self._runner

    def _answer(self, answer: Answer) -> None:
        self._pipe.send(answer)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is decided on elsewhere
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    code = 1
    try:
        _serve(Connection(int(sys.argv[1])), mmap.mmap(int(sys.argv[2]), SHARED_BYTES))
        code = 0
    except (EOFError, ConnectionError):
        code = 0  # rank 0 has ended
    except Exception:
        logger.exception("a rank of the model ends by a fault of its own")
    finally:
        sys.stderr.flush()
        os._exit(code)  # neither torch's threads nor a sum with others may delay the end


def _serve(pipe: Connection, memory: mmap.mmap) -> None:
    spec = pipe.recv()
    assert isinstance(spec, RankSpec), "the first thing that a rank hears is what it is"
    pipe.send("")  # here: now rank 0 waits for all in join
    shard = Shard(spec.rank, spec.degree, join(spec))
    try:
        model = load_model(spec, shard)
    except ConfigError as error:
        pipe.recv()  # the first Allocate
        pipe.send(str(error))
        pipe.recv()  # ends with rank 0, which may have more to hear from others
        return
    Rank(pipe, memory, model).serve()


if __name__ == "__main__":
    main()
