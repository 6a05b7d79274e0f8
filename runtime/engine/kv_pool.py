"""The memory that holds KV: one tensor, addressed by layer, page and position.

Owns the bytes and nothing else: which page is whose is the KV cache's business. Keys and values
are stored with rotary positions applied.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from mserve.runtime.engine.batching import Pages
from mserve.runtime.engine.inputs import Indices, page_indices, slots_of
from mserve.runtime.engine.model_config import ModelConfig


class KvPool:
    """KV of `num_pages` pages in every layer; implements `KvStore`.

    A slot is one position of one page: page * page_size + offset.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_layers = config.num_layers
        self.num_pages = num_pages
        self.page_size = page_size
        self.bytes_per_token_layer = bytes_per_token(config, dtype) // config.num_layers
        # Zeros, not garbage: a masked position weighs 0, and 0 times NaN would be NaN.
        self.tensor = torch.zeros(
            (config.num_layers, 2, num_pages, page_size, config.num_kv_heads, config.head_dim),
            dtype=dtype,
            device=device,
        )
        self._head_shape = (config.num_kv_heads, config.head_dim)
        slots = self.tensor.view(
            config.num_layers, 2, num_pages * page_size, config.num_kv_heads, config.head_dim
        )
        self._keys = [slots[layer, 0] for layer in range(config.num_layers)]
        self._values = [slots[layer, 1] for layer in range(config.num_layers)]
        self._pages = list(self.tensor.flatten(3))  # per layer [2, pages, page bytes]
        self._bytes = slots.flatten(3).view(torch.uint8)  # [layers, 2, slots, row bytes]

    def append(self, layer: int, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Stores one step's keys and values: slots [rows], k and v [rows, kv_heads, head_dim]."""
        self._keys[layer].index_copy_(0, slots, k)
        self._values[layer].index_copy_(0, slots, v)

    def keys_values(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and all values of a layer: [num_pages, page_size, kv_heads, head_dim] each."""
        return self.tensor[layer, 0], self.tensor[layer, 1]

    def gather(self, layer: int, pages: torch.Tensor, sequences: int) -> torch.Tensor:
        """Copies the pages [sequences * n] of equally many per sequence side by side:
        [2 (K, V), sequences, n * page_size, kv_heads, head_dim]."""
        gathered: torch.Tensor = self._pages[layer].index_select(1, pages)
        return gathered.view(2, sequences, -1, *self._head_shape)

    def read(self, pages: Pages, layer: int, begin: int, end: int, out: memoryview) -> None:
        """Positions [begin, end) of `layer` into `out`, in the wire form of `KvStore`."""
        slots = self._slots(pages, begin, end)
        target = np.frombuffer(out, np.uint8).reshape(2, len(slots), self._bytes.shape[-1])
        source = self._bytes[layer]
        if source.device.type != "cpu":
            target[:] = source[:, torch.from_numpy(slots).to(source.device)].cpu().numpy()
            return
        for kind in range(2):
            np.take(source[kind].numpy(), slots, axis=0, out=target[kind], mode="clip")

    def write(self, pages: Pages, layer: int, begin: int, end: int, data: memoryview) -> None:
        """The inverse of `read`: places `data` at positions [begin, end) of `layer`."""
        slots = self._slots(pages, begin, end)
        source: NDArray[np.uint8] = np.frombuffer(data, np.uint8).reshape(
            2, len(slots), self._bytes.shape[-1]
        )
        target = self._bytes[layer]
        if target.device.type != "cpu":
            rows = torch.from_numpy(source.copy()).to(target.device)
            target[:, torch.from_numpy(slots).to(target.device)] = rows
            return
        for kind in range(2):
            target[kind].numpy()[slots] = source[kind]

    def _slots(self, pages: Pages, begin: int, end: int) -> Indices:
        first = begin // self.page_size
        table = page_indices(pages, first, -(-end // self.page_size))
        return slots_of(table, self.page_size, np.arange(begin, end) - first * self.page_size)


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """KV bytes of one position in all layers."""
    return config.num_layers * 2 * config.num_kv_heads * config.head_dim * dtype.itemsize
