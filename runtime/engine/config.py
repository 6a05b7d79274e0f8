"""The engine's limits: sizes of its KV cache and of its batches. Plain values, checked once.

Knows nothing of devices or models; whoever loads the model derives `num_pages` from its memory.
"""

from dataclasses import dataclass
from typing import Literal

from mserve.runtime.engine.aligned import Alignment
from mserve.runtime.engine.decode_cost import NO_COST, DecodeCost
from mserve.runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Counts are tokens unless named otherwise. A page is a block: `page_size` is `block_tokens`."""

    num_pages: int
    page_size: int = 16
    prefix_cache: bool = True  # keep what was computed for later prompts
    host_pages: int = 0  # in host memory, for blocks that lost their page on the device
    max_model_len: int = 4096  # prompt and output together
    max_batch_tokens: int = 2048  # per step, a decode counts 1
    chunk_tokens: int = 512  # of one sequence's prompt, per step
    max_running: int = 64  # sequences in one batch
    max_sequences: int = 4096  # under way, waiting ones included; more are refused
    decode_headroom: int = 16  # reserved beyond the prompt at admission
    queue: Literal["fcfs", "deadline", "priority", "hit_ratio"] = "fcfs"  # see queues.py
    queue_groups: int = 10  # queue = hit_ratio: how finely it tells cached shares apart
    batch: Literal["continuous", "aligned"] = "continuous"  # aligned: see aligned.py
    spread: float = 2.0  # of batch = aligned, as are patience and fill
    patience_s: float = 0.05
    fill: float = 0.8
    decode_cost: DecodeCost = NO_COST  # batch = aligned: says when that pays; of 0, never
    default_deadline_s: float = 30.0  # queue = deadline: of those who name none
    priority_step_s: float = 5.0  # queue = priority: seconds of waiting that outweigh one unit
    eos_token_ids: frozenset[int] = frozenset()
    vocab_size: int | None = None  # None: token ids are not checked
    max_repeat: int = 1  # steps that one batch may stand for; the simulator raises it

    def __post_init__(self) -> None:
        """Raises ConfigError for a limit that is not positive."""
        for name in ("num_pages", "page_size", "max_model_len", "max_batch_tokens"):
            self._check_positive(name)
        for name in ("chunk_tokens", "max_running", "max_sequences", "max_repeat", "queue_groups"):
            self._check_positive(name)
        if self.host_pages < 0:
            raise ConfigError(f"host_pages must not be negative, as {self.host_pages} is.")

    def _check_positive(self, name: str) -> None:
        value: int = getattr(self, name)
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}.")

    @property
    def alignment(self) -> Alignment:
        return Alignment(self.spread, self.patience_s, self.fill)

    @property
    def capacity(self) -> int:
        """Positions that fit in all pages together."""
        return self.num_pages * self.page_size
