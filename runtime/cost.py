"""What work costs on one worker: a few numbers measured at its start, and the times they predict.

Knows no request and no queue; placement adds those up. All times in seconds.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace


class CostProfile(Struct, frozen=True, forbid_unknown_fields=True):
    """Prefill is `base + token * n + pair * (attended positions)`, decode `base + sequence * batch`."""

    prefill_base_s: float
    prefill_token_s: float
    prefill_pair_s: float  # per (query, key) pair: the quadratic part
    decode_base_s: float
    decode_sequence_s: float
    transfer_base_s: float
    transfer_bytes_per_s: float
    kv_bytes_per_token: int

    def prefill_time(self, num_tokens: float, num_before: float = 0) -> float:
        """Seconds to compute `num_tokens` after a prefix of `num_before` whose KV is there."""
        if num_tokens <= 0:
            return 0.0
        pairs = num_tokens * (num_before + num_tokens / 2)
        return self.prefill_base_s + self.prefill_token_s * num_tokens + self.prefill_pair_s * pairs

    def decode_time(self, num_tokens: float, batch: float = 1) -> float:
        """Seconds until a sequence has generated `num_tokens` among `batch` running ones."""
        return num_tokens * (self.decode_base_s + self.decode_sequence_s * max(1.0, batch))

    def step_time(self, chunks: Sequence[tuple[int, int]], num_decodes: int) -> float:
        """Seconds of one step: prompts' positions [begin, end) computed, beside so many decodes.

        The step's fixed part, reading the weights, is there once.
        """
        if not chunks:
            return self.decode_time(1, num_decodes) if num_decodes else 0.0
        prefill_s = sum(self.prefill_time(end - begin, begin) for begin, end in chunks)
        return (
            prefill_s
            - (len(chunks) - 1) * self.prefill_base_s
            + num_decodes * self.decode_sequence_s
        )

    def scaled(self, prefill: float, decode: float) -> "CostProfile":
        """Where steps take so many times as long. Transfers are left as they are."""
        if prefill == 1.0 and decode == 1.0:
            return self
        return replace(
            self,
            prefill_base_s=self.prefill_base_s * prefill,
            prefill_token_s=self.prefill_token_s * prefill,
            prefill_pair_s=self.prefill_pair_s * prefill,
            decode_base_s=self.decode_base_s * decode,
            decode_sequence_s=self.decode_sequence_s * decode,
        )

    def transfer_time(self, num_tokens: float) -> float:
        """Seconds to move the KV of `num_tokens`, all layers."""
        if num_tokens <= 0:
            return 0.0
        return (
            self.transfer_base_s + num_tokens * self.kv_bytes_per_token / self.transfer_bytes_per_s
        )
