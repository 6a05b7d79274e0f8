"""The memory that holds KV: one tensor, addressed by layer, page and position, and one in host
memory for pages that had to leave it.

Owns the bytes and nothing else: which page is whose is the KV cache's business. Keys and values
are stored with rotary positions applied.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Items

import numpy as np
import torch
from numpy.typing import NDArray

from mserve.runtime.engine.batching import Pages
from mserve.runtime.engine.inputs import Indices, page_indices, slots_of
from mserve.runtime.engine.launches import device_errors
from mserve.runtime.engine.model_config import ModelConfig
from mserve.runtime.engine.moves import MoveFailure, Moves, PageCopy

SLICE_BYTES = 32 << 20  # of pages that move between device and host together


class KvPool:
    """KV of `num_pages` pages in every layer; implements `KvStore`.

    A slot is one position of one page: page * page_size + offset. With `spare`, one page more is
    there, number `num_pages`, for rows of a step that stand for no token.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
        host_pages: int = 0,
        spare: bool = False,
    ) -> None:
        self.num_layers = config.num_layers
        self.num_pages = num_pages
        self.spare_page = num_pages
        all_pages = num_pages + spare
        self.page_size = page_size
        self.bytes_per_token_layer = bytes_per_token(config, dtype) // config.num_layers
        # Zeros, not garbage: a masked position weighs 0, and 0 times NaN would be NaN.
        self.tensor = torch.zeros(
            (config.num_layers, 2, all_pages, page_size, config.num_kv_heads, config.head_dim),
            dtype=dtype,
            device=device,
        )
        self._head_shape = (config.num_kv_heads, config.head_dim)
        slots = self.tensor.view(
            config.num_layers, 2, all_pages * page_size, config.num_kv_heads, config.head_dim
        )
        self._keys = [slots[layer, 0] for layer in range(config.num_layers)]
        self._values = [slots[layer, 1] for layer in range(config.num_layers)]
        self._pages = list(self.tensor.flatten(3))  # per layer [2, pages, page bytes]
        self._bytes = slots.flatten(3).view(torch.uint8)  # [layers, 2, slots, row bytes]
        self._host = HostPool(self.tensor, host_pages)
        self.host_pages = host_pages

    def move(self, moves: Moves) -> None:
        """Does a batch's moves, in their order. Raises MoveFailure."""
        try:
            if moves.saves:
                self._host.save(moves.saves)
            if moves.restores:
                self._host.restore(moves.restores)
            if moves.copies:
                self._copy(moves.copies)
        except (IndexError, RuntimeError) as error:  # torch's for a device out of memory too
            raise MoveFailure(f"KV pages could not be copied: {error}") from error

    def _copy(self, copies: tuple[PageCopy, ...]) -> None:
        slots = np.concatenate([self._slots_of(copy) for copy in copies], axis=1)
        source, target = torch.from_numpy(slots).to(self.tensor.device)
        self._bytes[:, :, target] = self._bytes[:, :, source]

    def _slots_of(self, copy: PageCopy) -> Indices:
        """[2 (source, target), num_positions]"""
        pages = np.array([[copy.source], [copy.target]], np.int64)
        return pages * self.page_size + np.arange(copy.num_positions)

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
        """Positions [begin, end) of `layer` into `out`, in the wire form of `KvStore`. Raises
        StepOutOfMemory, DeviceLost."""
        slots = self._slots(pages, begin, end)
        target = np.frombuffer(out, np.uint8).reshape(2, len(slots), self._bytes.shape[-1])
        source = self._bytes[layer]
        if source.device.type != "cpu":
            with device_errors():
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
            with device_errors():
                rows = torch.from_numpy(source.copy()).to(target.device)
                target[:, torch.from_numpy(slots).to(target.device)] = rows
            return
        for kind in range(2):
            target[kind].numpy()[slots] = source[kind]

    def _slots(self, pages: Pages, begin: int, end: int) -> Indices:
        first = begin // self.page_size
        table = page_indices(pages, first, -(-end // self.page_size))
        return slots_of(table, self.page_size, np.arange(begin, end) - first * self.page_size)


class HostPool:
    """`num_pages` pages in host memory, and the copies between them and the device's.

    On CUDA the memory is pinned and the copies run on a stream of their own: what is saved is
    gathered at once and travels while the step computes; a step waits for what it restores. One
    stream for both directions, so that a page is never read before it is there. What is on its way
    takes twice `SLICE_BYTES` of the device's memory at most, or two pages if those are larger.
    """

    def __init__(self, device_kv: torch.Tensor, num_pages: int) -> None:
        """`device_kv`: [layers, 2, pages, page_size, kv_heads, head_dim]."""
        layers, kinds, _, *page = device_kv.shape
        # [host pages, layers, 2 (K, V), page_size, kv_heads, head_dim]: a page is one piece
        on_cuda = device_kv.device.type == "cuda"
        self._device_kv = device_kv
        self._pages = torch.zeros(
            (num_pages, layers, kinds, *page),
            dtype=device_kv.dtype,
            pin_memory=on_cuda and num_pages > 0,
        )
        self._stream = torch.cuda.Stream(device_kv.device) if on_cuda else None

    def save(self, moves: Items[tuple[int, int]]) -> None:
        """Copies device pages to host pages: (page, host page) each."""
        for part in self._sliced(moves):
            self._save(*zip(*part, strict=True))

    def _save(self, pages: Items[int], host_pages: Items[int]) -> None:
        if self._stream is None:
            self._pages[list(host_pages)] = self._gathered(pages)
            return
        gathered = self._gathered(pages).contiguous()
        self._stream.wait_stream(torch.cuda.current_stream(gathered.device))
        gathered.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            for index, host_page in enumerate(host_pages):
                self._pages[host_page].copy_(gathered[index], non_blocking=True)

    def restore(self, moves: Items[tuple[int, int]]) -> None:
        """Copies host pages to device pages: (host page, page) each."""
        for part in self._sliced(moves):
            self._restore(*zip(*part, strict=True))

    def _restore(self, host_pages: Items[int], pages: Items[int]) -> None:
        if self._stream is None:
            self._scatter(pages, self._pages[list(host_pages)])
            return
        shape = (len(pages), *self._pages.shape[1:])
        with torch.cuda.stream(self._stream):
            staged = torch.empty(shape, dtype=self._pages.dtype, device=self._device_kv.device)
            for index, host_page in enumerate(host_pages):
                staged[index].copy_(self._pages[host_page], non_blocking=True)
        current = torch.cuda.current_stream(staged.device)
        current.wait_stream(self._stream)
        staged.record_stream(current)
        self._scatter(pages, staged)

    def _sliced(self, moves: Items[tuple[int, int]]) -> Iterator[Items[tuple[int, int]]]:
        most = max(1, SLICE_BYTES // max(1, self._pages[:1].nbytes))
        for begin in range(0, len(moves), most):
            yield moves[begin : begin + most]

    def _gathered(self, pages: Items[int]) -> torch.Tensor:
        """[n, layers, 2, page_size, kv_heads, head_dim]"""
        return self._device_kv[:, :, self._index(pages)].movedim(2, 0)

    def _scatter(self, pages: Items[int], kv: torch.Tensor) -> None:
        """kv: [n, layers, 2, page_size, kv_heads, head_dim]"""
        self._device_kv[:, :, self._index(pages)] = kv.movedim(0, 2)

    def _index(self, pages: Items[int]) -> torch.Tensor:
        return torch.tensor(pages, device=self._device_kv.device)


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """KV bytes of one position in all layers."""
    return config.num_layers * 2 * config.num_kv_heads * config.head_dim * dtype.itemsize
