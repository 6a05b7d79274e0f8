"""Compiles the FlashInfer kernels that mserve uses ahead of time, for a GPU that need not be here.

FlashInfer compiles at first use, for minutes and with nvcc; where there is none, or no time, it
takes what lies in a package `flashinfer_jit_cache`. This makes one: put its parent folder on
PYTHONPATH, and nothing is compiled. Needs flashinfer-python, ninja, nvcc and the headers of cuBLAS
and cuRAND (CPATH names their folder where the toolkit lacks them); neither GPU nor driver.

    CUDA_HOME=/usr/local/cuda python bench/gpu_kernels.py --out wheels/kernels [--only norm,rope]
"""

import argparse
import os
import shutil
import subprocess
import time
from ctypes.util import find_library
from importlib import import_module, metadata
from itertools import product
from pathlib import Path
from typing import Any

PACKAGE = "flashinfer_jit_cache"
INIT = """from pathlib import Path

__version__ = {version!r}


def get_jit_cache_dir() -> str:
    return str(Path(__file__).parent)
"""


def kernels(torch: Any, head_dims: list[int]) -> dict[str, Any]:
    """Each module under a short name: what attention, operations and draws call."""
    parts = {name: import_module(f"flashinfer.jit.{name}") for name in ("norm", "rope", "sampling")}
    modules = import_module("flashinfer.jit.attention.modules")
    activation = import_module("flashinfer.jit.activation")
    found: dict[str, Any] = {
        "norm": parts["norm"].gen_norm_module(),
        "rope": parts["rope"].gen_rope_module(),
        "sampling": parts["sampling"].gen_sampling_module(),
        "silu": activation.gen_act_and_mul_module("silu"),
    }
    number = torch.bfloat16
    for head_dim, window in product(head_dims, (False, True)):
        types = (number, number, number, torch.int32, head_dim, head_dim, 0, window, False)
        suffix = f"{head_dim}{'_window' if window else ''}"
        found[f"prefill_{suffix}"] = modules.gen_batch_prefill_module("fa3", *types, False)
        found[f"decode_{suffix}"] = modules.gen_batch_decode_module(*types)
        # Decodes on tensor cores are prefills of one row.
        found[f"rows_{suffix}"] = modules.gen_batch_prefill_module("fa2", *types, False)
    return found


def compile_into(package: Path, spec: Any) -> float:
    """Seconds it took; nothing where the module is there already."""
    target = package / spec.name / f"{spec.name}.so"
    if target.exists():
        return 0.0
    begin = time.perf_counter()
    spec.build(verbose=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(spec.jit_library_path, target)
    return time.perf_counter() - begin


def link_without_driver(folder: Path) -> None:
    """Kernels are linked against the driver's library, which only machines with a GPU have: an
    empty one of its name does, since the real one is found when they are loaded."""
    if find_library("cuda") is None:
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / "libcuda.so"
        options = ["-shared", "-Wl,-soname,libcuda.so.1", "-x", "c", os.devnull]
        subprocess.run(["cc", *options, "-o", str(target)], check=True)
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    known = os.environ.get("LIBRARY_PATH", "")
    os.environ["LIBRARY_PATH"] = f"{folder}:{home}/lib64:{known}"


def main() -> None:
    parser = argparse.ArgumentParser(description="compile FlashInfer's kernels ahead of time")
    parser.add_argument("--out", type=Path, required=True, help="folder to put on PYTHONPATH")
    parser.add_argument("--arch", default="9.0a", help="of the GPU (default: %(default)s, Hopper)")
    parser.add_argument("--head-dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--only", help="names to compile, comma-separated (default: all)")
    options = parser.parse_args()
    os.environ["FLASHINFER_CUDA_ARCH_LIST"] = options.arch  # read when FlashInfer is imported
    link_without_driver(options.out.resolve() / "stub")
    torch = import_module("torch")
    package: Path = options.out / PACKAGE
    package.mkdir(parents=True, exist_ok=True)
    version = metadata.version("flashinfer-python")
    (package / "__init__.py").write_text(INIT.format(version=version))
    found = kernels(torch, options.head_dims)
    names = options.only.split(",") if options.only else list(found)
    for name in names:
        seconds = compile_into(package, found[name])
        print(f"{name}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
