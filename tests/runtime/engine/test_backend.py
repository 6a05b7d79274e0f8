"""Who attends: FlashInfer where it can, torch elsewhere."""

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from mserve.runtime.config import shipped_model
from mserve.runtime.engine.backend import choose_backend
from mserve.runtime.engine.model_config import read_config
from mserve.runtime.errors import ConfigError

TINY = shipped_model()


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "message"),
    [
        ("cpu", torch.bfloat16, 64, "needs a CUDA device"),
        ("cuda", torch.float32, 64, "needs bfloat16 or float16"),
        ("cuda", torch.bfloat16, 96, "needs heads of 64, 128, 256, not 96"),
    ],
)
def test_what_flashinfer_cannot_do_is_gathered(
    device: str, dtype: torch.dtype, head_dim: int, message: str
) -> None:
    config = replace(read_config(TINY), head_dim=head_dim)
    backend = choose_backend(None, config, torch.device(device), dtype)
    assert not backend.has_flashinfer
    with pytest.raises(ConfigError, match=message):
        choose_backend("flashinfer", config, torch.device(device), dtype)


def test_what_it_can_do_is_its_own(stand_in: Any) -> None:
    config = read_config(TINY)
    assert choose_backend(None, config, torch.device("cuda"), torch.bfloat16).has_flashinfer
    gathered = choose_backend("gathered", config, torch.device("cuda"), torch.bfloat16)
    assert not gathered.has_flashinfer


def test_a_missing_flashinfer_is_a_sentence(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    with pytest.raises(ConfigError, match=r"mserve needs FlashInfer, the extra mserve\[cu12\]"):
        choose_backend(None, read_config(TINY), torch.device("cuda"), torch.bfloat16)
