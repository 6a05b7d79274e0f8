import pytest
import torch

from mserve.runtime.engine.models.linear import Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 17])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("size", [48, 1536])  # below and above what stays unpacked for single rows
def test_packed_and_plain_products_are_the_same(
    dtype: torch.dtype, rows: int, with_bias: bool, size: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(size + 8, size, generator=generator, dtype=dtype)
    bias = torch.randn(size + 8, generator=generator, dtype=dtype) if with_bias else None
    x = torch.randn(rows, size, generator=generator, dtype=dtype)
    packed, plain = Linear(weight, bias)(x), Linear(weight, bias, packed=False)(x)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(packed, plain, rtol=tolerance, atol=tolerance * size**0.5)
