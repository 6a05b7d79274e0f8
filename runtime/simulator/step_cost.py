"""How long an engine's steps take on given GPUs: a roofline over what hardware.py says of them.

    step = matrices: max(compute, weights' bytes)     + attention: prefill, decode's KV bytes
         + elementwise + all-reduces + launch overheads + pages moved to and from the host

Knows batches and no cluster. Plain version of what a calibrated profile says of one worker.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Self

import numpy as np

from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.batching import Batch
from mserve.runtime.errors import ConfigError
from mserve.runtime.simulator.hardware import Format, Gpu, Hardware, ModelShape, Software

Link = Literal["network", "peer", "host"]

VALUE_BYTES = 2  # of KV and activations: bf16
IMBALANCE_SLOPE = 0.7
"""Of decode attention without KV splitting: its time over its bytes' time is 1 + 0.7 rho
(AlignedServe, arXiv 2605.23389)."""
_FIT_NEW = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_FIT_BEFORE = (0, 4096, 16384)
_FIT_BATCH = 32


class Work(NamedTuple):
    """What one step computes. Contexts are the positions attended to, a token's own included."""

    prefill: Sequence[tuple[int, int]] = ()  # (new tokens, tokens before them) of each chunk
    num_decodes: int = 0
    decode_tokens: int = 0  # sum of their contexts
    longest: int = 0  # of their contexts


class HardwareCost:
    """`engine.batching.StepCost` of one worker: a model on `tensor_parallel` GPUs.

    `splits_kv` says whether decode attention splits long KV over the GPU, as FlashInfer does; if
    not, a batch of unequal lengths leaves multiprocessors idle. `page_size` (tokens) prices what
    moves to and from the host. Raises ConfigError where the heads cannot be shared out.
    """

    def __init__(
        self,
        gpu: Gpu,
        model: ModelShape,
        software: Software,
        weights: Format,
        *,
        tensor_parallel: int = 1,
        splits_kv: bool = True,
        page_size: int = 16,
    ) -> None:
        self.gpu, self.model, self.software = gpu, model, software
        self.tensor_parallel = tensor_parallel
        self.splits_kv = splits_kv
        self.page_size = page_size
        self._weights = weights
        if model.num_heads % tensor_parallel:
            raise ConfigError(
                f"{model.num_heads} attention heads cannot be shared out over {tensor_parallel} GPUs:"
                " choose a divisor as the tensor-parallel degree."
            )
        self._kv_shards = min(tensor_parallel, model.num_kv_heads)
        memory_bytes_per_s = gpu.memory_gb_per_s * 1e9 * weights.memory
        read = model.num_layers * model.layer_weights + model.head_weights
        self._weights_s = read * weights.weight_bytes / tensor_parallel / memory_bytes_per_s
        self._token_s = self._matrix_flops() / self._matrix_rate()
        self._elementwise_s = self._elementwise_bytes() / memory_bytes_per_s
        self._pair_s = self._pair_flops() / (gpu.bf16_tflops * 1e12 * software.attention_compute)
        self._kv_read_s = self.kv_bytes_per_token / self._kv_shards / memory_bytes_per_s
        self._reduce_s, self._reduce_token_s = self._all_reduce()
        self._overhead_s = 1e-6 * (
            software.step_overhead_us + model.num_layers * software.layer_overhead_us
        )
        page_bytes = self.kv_bytes_per_token * page_size
        self._page_s = page_bytes / self.link_bytes_per_s("host")

    @classmethod
    def named(
        cls,
        hardware: Hardware,
        gpu: str,
        model: str,
        *,
        weights: str = "bf16",
        tensor_parallel: int = 1,
        splits_kv: bool = True,
        page_size: int = 16,
    ) -> Self:
        """By names in the tables. Raises ConfigError."""
        return cls(
            hardware.gpu(gpu),
            hardware.model(model),
            hardware.software,
            hardware.format(weights),
            tensor_parallel=tensor_parallel,
            splits_kv=splits_kv,
            page_size=page_size,
        )

    # --- steps ---------------------------------------------------------------------------------

    def step_time(self, batch: Batch) -> tuple[float, float]:
        """(seconds of the first step, seconds by which each further one is longer)."""
        moved_s = self._page_s * (len(batch.moves.saves) + len(batch.moves.restores))
        if not batch.computes:
            return moved_s, 0.0
        contexts = [sequence.num_computed + 1 for sequence in batch.decode]
        chunks = [(chunk.end - chunk.begin, chunk.begin) for chunk in batch.prefill]
        work = Work(chunks, len(contexts), sum(contexts), max(contexts, default=0))
        first_s, slope_s = self.work_time(work)
        return moved_s + first_s, slope_s

    def work_time(self, work: Work) -> tuple[float, float]:
        """Like `step_time`; in further steps each decoding sequence is one token longer."""
        num_tokens = work.num_decodes + sum(new for new, _ in work.prefill)
        matrices_s = max(self._weights_s, num_tokens * self._token_s)
        per_token_s = self._elementwise_s + self._reduce_token_s
        fixed_s = self._overhead_s + self._reduce_s
        decode_s, slope_s = self._decode_attention(work)
        prefill_s = sum(itertools.starmap(self._prefill_attention, work.prefill))
        first_s = fixed_s + matrices_s + num_tokens * per_token_s + prefill_s + decode_s
        return first_s, slope_s

    def prefill_time(
        self, num_tokens: int, num_before: int = 0, chunk_tokens: int | None = None
    ) -> float:
        """Seconds for a prompt alone, in steps of at most `chunk_tokens`."""
        if num_tokens <= 0:
            return 0.0
        end = num_before + num_tokens
        size = chunk_tokens or num_tokens
        starts = range(num_before, end, size)
        chunks = [(min(size, end - start), start) for start in starts]
        return sum(self.work_time(Work([chunk]))[0] for chunk in chunks)

    def decode_time(self, contexts: Iterable[int]) -> float:
        """Seconds of one step for sequences of these contexts."""
        lengths = list(contexts)
        return self.work_time(Work((), len(lengths), sum(lengths), max(lengths)))[0]

    # --- memory, links, money ------------------------------------------------------------------

    @property
    def kv_bytes_per_token(self) -> int:
        """Over all layers and GPUs."""
        model = self.model
        return 2 * model.num_layers * model.num_kv_heads * model.head_dim * VALUE_BYTES

    @property
    def weight_bytes(self) -> float:
        """Over all GPUs."""
        return self.model.num_weights * self._weights.weight_bytes

    def num_kv_tokens(self, memory_share: float = 0.9) -> int:
        """How many tokens' KV there is room for when weights and KV take that share of memory. Raises
        ConfigError if there is none."""
        weights_each = self.weight_bytes / self.tensor_parallel
        usable = self.gpu.memory_gb * 1e9 * memory_share - weights_each
        num_tokens = int(usable * self._kv_shards / self.kv_bytes_per_token)
        if num_tokens < 1:
            raise ConfigError(
                f"The weights take {weights_each / 1e9:.0f} GB of each GPU, which has"
                f" {self.gpu.memory_gb:g} GB: there is no room for KV. Take more or larger GPUs, or"
                " weights in fp8."
            )
        return num_tokens

    def link_bytes_per_s(self, link: Link) -> float:
        """Of the whole worker: each of its GPUs sends its part of the KV over a link of its own."""
        rates = {
            "network": self.gpu.network_gbit_per_s / 8,
            "peer": self.gpu.peer_gb_per_s,
            "host": self.gpu.host_gb_per_s,
        }
        return rates[link] * 1e9 * self.software.link * self._kv_shards

    def transfer_time(self, num_tokens: int, link: Link = "network") -> float:
        """Seconds to move the KV of `num_tokens`, all layers, with nothing else on the link."""
        if num_tokens <= 0:
            return 0.0
        moved_s = num_tokens * self.kv_bytes_per_token / self.link_bytes_per_s(link)
        return self.software.link_latency_us * 1e-6 + moved_s

    @property
    def move_s(self) -> float:
        """Seconds that a position is on its way between device and host."""
        return self._page_s / self.page_size

    @property
    def usd_per_s(self) -> float:
        return self.gpu.usd_per_hour * self.tensor_parallel / 3600

    def profile(
        self, *, context: int = 2048, chunk_tokens: int | None = None, link: Link = "network"
    ) -> CostProfile:
        """What placement is told of this worker: the nearest costs of the form that it knows.

        `context` is the length of sequences that decode.
        """
        base_s, token_s, pair_s = self._fitted_prefill(chunk_tokens)
        alone_s = self.decode_time([context])
        sequence_s = (self.decode_time([context] * _FIT_BATCH) - alone_s) / (_FIT_BATCH - 1)
        return CostProfile(
            prefill_base_s=base_s,
            prefill_token_s=token_s,
            prefill_pair_s=pair_s,
            decode_base_s=alone_s - sequence_s,
            decode_sequence_s=sequence_s,
            transfer_base_s=self.software.link_latency_us * 1e-6,
            transfer_bytes_per_s=self.link_bytes_per_s(link),
            kv_bytes_per_token=self.kv_bytes_per_token,
        )

    # --- inside --------------------------------------------------------------------------------

    def _matrix_flops(self) -> float:
        """Of one token on one GPU. Logits are made for few tokens only, and left out."""
        return 2 * self.model.num_layers * self.model.layer_weights / self.tensor_parallel

    def _matrix_rate(self) -> float:
        """FLOP/s. Without units for the format, products are those of bf16."""
        is_bf16 = self._weights.weight_bytes >= 2 or self.gpu.fp8_tflops is None
        tflops = self.gpu.bf16_tflops if is_bf16 else self.gpu.fp8_tflops
        assert tflops is not None, "Only GPUs with units for FP8 get here without bf16."
        return tflops * 1e12 * self._weights.compute

    def _pair_flops(self) -> float:
        """Of one query and one key, on one GPU: the score, and the value's part of the result."""
        model = self.model
        return 4 * model.num_layers * model.num_heads * model.head_dim / self.tensor_parallel

    def _elementwise_bytes(self) -> float:
        """Of one token. The hidden state is whole on every GPU."""
        width = self.model.hidden_size * VALUE_BYTES
        return self.software.elementwise_passes * self.model.num_layers * width

    def _all_reduce(self) -> tuple[float, float]:
        """(latency, seconds for each token) of a step's all-reduces, as rings."""
        degree = self.tensor_parallel
        if degree == 1:
            return 0.0, 0.0
        count = 2 * self.model.num_layers
        sent = 2 * (degree - 1) / degree * self.model.hidden_size * VALUE_BYTES
        rate = self.gpu.peer_gb_per_s * 1e9 * self.software.link
        return count * self.software.all_reduce_us * 1e-6, count * sent / rate

    def _prefill_attention(self, num_new: int, num_before: int) -> float:
        """Causal: a new token attends to all before it and, on average, to half of the new ones."""
        pairs = num_new * (num_before + (num_new + 1) / 2)
        return max(pairs * self._pair_s, (num_before + num_new) * self._kv_read_s)

    def _decode_attention(self, work: Work) -> tuple[float, float]:
        """(seconds, further seconds when all contexts are one longer), by the bytes of KV read.

        Without KV splitting the factor is 1 + 0.7 rho, rho = (multiprocessors / blocks) *
        (longest / mean) with a block for each sequence and KV head: times the tokens that is linear
        in the longest context.
        """
        if not work.num_decodes:
            return 0.0, 0.0
        if self.splits_kv:
            factor = self.software.attention_imbalance * self._kv_read_s
            return factor * work.decode_tokens, factor * work.num_decodes
        kv_heads = self.model.num_kv_heads / self._kv_shards
        waste = IMBALANCE_SLOPE * self.gpu.num_multiprocessors / kv_heads
        first = work.decode_tokens + waste * work.longest
        return first * self._kv_read_s, (work.num_decodes + waste) * self._kv_read_s

    def _fitted_prefill(self, chunk_tokens: int | None) -> tuple[float, float, float]:
        """(base, per token, per pair): least squares of the relative error, none negative."""
        points = list(itertools.product(_FIT_NEW, _FIT_BEFORE))
        seconds = np.array([self.prefill_time(*point, chunk_tokens) for point in points])
        rows = [(1.0, new, new * (before + new / 2)) for new, before in points]
        terms = np.array(rows) / seconds[:, None]
        kept = [0, 1, 2]
        while True:
            found = np.linalg.lstsq(terms[:, kept], np.ones_like(seconds))[0]
            if (found >= 0).all():
                break
            del kept[int(found.argmin())]  # not the last: one positive term fits positive times
        base_s, token_s, pair_s = (
            float(found[kept.index(i)]) if i in kept else 0.0 for i in range(3)
        )
        return base_s, token_s, pair_s
