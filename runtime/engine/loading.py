"""How a model becomes a runner: its weights, on every rank, then memory for KV, then recorded decodes.

Owns the order, in which memory is short before there is a request or never. Knows no batch; what
torch and its devices do is in the parts that are put together here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mserve.runtime.engine.backend import (
    Backend,
    choose_backend,
    find_device,
    find_dtype,
    threads_per_rank,
    use_device,
)
from mserve.runtime.engine.batching import StepOutOfMemory
from mserve.runtime.engine.constraints import Constraints
from mserve.runtime.engine.kv_pool import KvPool, bytes_per_token
from mserve.runtime.engine.launches import device_errors
from mserve.runtime.engine.memory import (
    DEFAULT_BYTES,
    free_bytes,
    largest_batch,
    pages_in,
    pages_in_share,
    working_bytes,
)
from mserve.runtime.engine.model_config import ModelConfig, read_config
from mserve.runtime.engine.models.llama import Llama, LlamaWeights
from mserve.runtime.engine.parallel import WHOLE, Shard, check_degree, rank_devices
from mserve.runtime.engine.rank_messages import RankSpec
from mserve.runtime.engine.ranks import OnLost, Ranks
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.engine.sampler import Sampler
from mserve.runtime.engine.shapes import SHAPES, shape_config
from mserve.runtime.engine.weights import Checkpoint, DummyWeights
from mserve.runtime.errors import ConfigError
from mserve.runtime.grammar import Vocabulary


@dataclass(frozen=True, slots=True)
class KvMemory:
    """What a worker gets for KV, all its ranks together: `num_pages`, or what fits in `num_bytes`, or
    else in `gpu_share` of what the weights leave free; and as much host memory, where there is any.

    Batches have up to `max_batch_tokens` rows and `max_running` sequences.
    """

    num_pages: int | None
    num_bytes: int | None
    gpu_share: float
    host_pages: int
    host_bytes: int
    max_batch_tokens: int
    max_running: int


def load_runner(
    model: Path | str,
    *,
    load: str = "auto",
    device: str = "cpu",
    dtype: str = "float32",
    page_size: int = 16,
    num_pages: int | None = None,
    host_pages: int = 0,
    kv_memory_bytes: int | None = None,
    gpu_memory_share: float = 0.9,
    host_memory_bytes: int = 0,
    max_batch_tokens: int = 2048,
    max_running: int = 256,
    threads: int | None = None,
    generator: np.random.Generator | None = None,
    attention: str | None = None,
    graphs: bool = True,
    gpus: int = 1,
    first_gpu: int | None = None,
    on_lost_rank: OnLost | None = None,
) -> TorchRunner:
    """Loads a Hugging Face folder and allocates KV memory: `num_pages`, or what fits in bytes, or a
    share of what the weights leave free on a GPU; and pages or bytes in host memory.

    With `load` "dummy", the weights are random ones, and `model` may be the name of a shape too
    (shapes.py). Batches have up to `max_batch_tokens` rows and `max_running` sequences: memory is
    planned and decodes are recorded for that. `threads` sets torch's threads for the whole process.
    `generator` draws for requests without a seed (default: seeded by the operating system).
    `attention` is "gathered", which runs anywhere, or "flashinfer", on CUDA the default. Without
    `graphs` every step is launched kernel by kernel.

    `gpus` is the tensor-parallel degree: that many processes, this one among them, on consecutive
    GPUs from `device` or `first_gpu` on, or on the CPU, where they share `threads`. When one of the
    others ends, `on_lost_rank` is told in a thread. Memory is the worker's: all ranks' together.

    Raises ConfigError.
    """
    if load not in ("auto", "dummy"):
        raise ConfigError(f"Weights are loaded as auto or dummy, not as {load!r}.")
    devices = rank_devices(find_device(device), gpus, first_gpu)
    spec = RankSpec(
        model=str(model),
        is_dummy=load == "dummy",
        dtype=dtype,
        attention=attention,
        page_size=page_size,
        threads=threads_per_rank(threads, gpus),
        device=devices[0],
    )
    memory = KvMemory(
        num_pages,
        kv_memory_bytes,
        gpu_memory_share,
        host_pages,
        host_memory_bytes,
        max_batch_tokens,
        max_running,
    )
    with _ranks_of(spec, devices, on_lost_rank) as (ranks, shard):
        loaded = load_model(spec, shard, ranks, generator)
        with _start_errors():
            return loaded.runner_with(memory, records=graphs)


@contextmanager
def _ranks_of(
    spec: RankSpec, devices: Sequence[str], on_lost: OnLost | None
) -> Iterator[tuple[Ranks | None, Shard]]:
    """The other ranks, if there are to be any, and this one's part of the model. They end if what is
    done with them in here fails. Raises ConfigError."""
    if len(devices) == 1:
        yield None, WHOLE
        return
    config = find_config(spec.model, spec.is_dummy)
    check_degree(config, len(devices))
    ranks, shard = Ranks.start(config, spec, devices, on_lost)
    try:
        yield ranks, shard
    except BaseException:
        ranks.close()
        raise


@contextmanager
def _start_errors() -> Iterator[None]:
    """Raises ConfigError where memory is short before there is a request."""
    try:
        with device_errors():
            yield
    except StepOutOfMemory as error:
        raise ConfigError(
            f"The device has too little memory for the largest batch: {error}. Lower"
            " --max-batch-tokens, --max-running, --kv-memory or --gpu-memory-share."
        ) from None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, or a rank's part of one, that has no KV memory yet."""

    backend: Backend
    model: Llama
    sampler: Sampler
    page_size: int
    shard: Shard
    ranks: Ranks | None  # on rank 0

    @property
    def page_bytes(self) -> int:
        """Of a page's part in here."""
        return self.page_size * bytes_per_token(self.backend.config, self.backend.dtype)

    def runner_with(self, memory: KvMemory, *, records: bool) -> TorchRunner:
        """`records`: decodes are recorded where they can be. Raises ConfigError, StepOutOfMemory."""
        self.sampler.warm_up(self.backend.config.vocab_size, self.backend.device)
        num_pages = self.plan_pages(memory)
        host_pages = memory.host_pages or memory.host_bytes // (self.shard.degree * self.page_bytes)
        can_record = self.backend.has_flashinfer and self.ranks is None
        return self.runner(
            num_pages, host_pages, memory.max_running if records and can_record else 0
        )

    def runner(self, num_pages: int, host_pages: int = 0, num_recorded: int = 0) -> TorchRunner:
        """Decodes of up to `num_recorded` sequences are recorded. Raises ConfigError."""
        if self.ranks is not None:
            self.ranks.allocate(num_pages, host_pages)
        pool = self._pool(num_pages, host_pages, spare=num_recorded > 0)
        attention = self.backend.attention(pool)
        graphs = None
        if num_recorded:
            graphs = self.backend.graphs(self.model, pool, attention, num_recorded)
        return TorchRunner(self.model, pool, attention, self.sampler, graphs, self.ranks)

    def plan_pages(self, memory: KvMemory) -> int:
        """On the device, as many as were asked for or fit in what was set apart."""
        if memory.num_pages is not None:
            return memory.num_pages
        device, config = self.backend.device, self.backend.config
        if memory.num_bytes is not None or device.type == "cpu":
            given = DEFAULT_BYTES if memory.num_bytes is None else memory.num_bytes
            return pages_in(given, self.shard.degree * self.page_bytes)
        batch = largest_batch(
            memory.max_batch_tokens, memory.max_running, config.max_positions, self.page_size
        )
        needed = working_bytes(device, lambda: self.runner(num_pages=1).run(batch))
        return pages_in_share(free_bytes(device), memory.gpu_share, needed, self.page_bytes)

    def _pool(self, num_pages: int, host_pages: int, spare: bool) -> KvPool:
        try:
            return KvPool(
                self.backend.config,
                num_pages=num_pages,
                page_size=self.page_size,
                dtype=self.backend.dtype,
                device=self.backend.device,
                host_pages=host_pages,
                spare=spare,
            )
        except RuntimeError as error:  # torch has no narrower one for "out of memory" on the CPU
            size = (num_pages + host_pages) * self.page_bytes
            raise ConfigError(f"{size >> 20} MiB of KV memory cannot be had: {error}") from None


def find_config(model: Path | str, is_dummy: bool) -> ModelConfig:
    """Of a folder or, for dummy weights, of a shape's name too. Raises ConfigError."""
    if is_dummy and str(model) in SHAPES and not Path(model).is_dir():
        return shape_config(str(model))
    return read_config(Path(model))


def load_model(
    spec: RankSpec,
    shard: Shard = WHOLE,
    ranks: Ranks | None = None,
    generator: np.random.Generator | None = None,
) -> LoadedModel:
    """What of `load_runner` comes before KV memory, on every rank. Raises ConfigError."""
    folder, device = Path(spec.model), find_device(spec.device)
    config = shard.config(find_config(folder, spec.is_dummy))
    backend = choose_backend(spec.attention, config, device, find_dtype(spec.dtype))
    use_device(device, spec.threads)
    weights = _load_weights(folder, spec.is_dummy, backend, shard)
    llama = Llama(config, weights, shard.operations(backend.operations(weights.embedding)))
    generator = generator or np.random.default_rng()
    constraints = Constraints(lambda: Vocabulary(folder, config.vocab_size, config.eos_ids))
    sampler = Sampler(config.eos_ids, generator, constraints, backend.draws(generator))
    return LoadedModel(backend, llama, sampler, spec.page_size, shard, ranks)


def _load_weights(folder: Path, is_dummy: bool, backend: Backend, shard: Shard) -> LlamaWeights:
    config, dtype, device = backend.config, backend.dtype, backend.device
    try:
        with device_errors():
            if is_dummy:
                return LlamaWeights.load(config, shard.weights(DummyWeights(dtype, device)))
            with Checkpoint(folder, dtype, device) as checkpoint:
                return LlamaWeights.load(config, shard.weights(checkpoint))
    except StepOutOfMemory as error:
        raise ConfigError(f"The model's weights do not fit on {device}: {error}") from None
