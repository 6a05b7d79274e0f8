"""What was said to a command that serves, and by the environment, as the options of the runtime.

Every function reads a command's arguments; which have which is serving.py's matter.
"""

import argparse
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mserve.runtime.config import AdmissionOptions, ClusterOptions, EngineOptions, TrustOptions

ADMIN_TOKEN = "MSERVE_ADMIN_TOKEN"
"""Who knows its value may change the strategy while it is served (docs/http.md)."""
API_KEYS_FILE = "MSERVE_API_KEYS_FILE"


def served_folder(arguments: argparse.Namespace) -> AbstractContextManager[Path]:
    """The model's folder, for as long as it is served. A router takes the name of a shape as it
    is: it needs no weights. Raises ConfigError."""
    from mserve.runtime.config import model_folder, shipped_model
    from mserve.runtime.engine.shapes import SHAPES, dummy_folder
    from mserve.runtime.errors import ConfigError

    name: str | None = arguments.model
    is_shape = name in SHAPES and not Path(str(name)).is_dir()
    load = getattr(arguments, "load", "dummy" if is_shape else "auto")
    if load == "dummy":
        return dummy_folder(name or shipped_model())
    if is_shape:
        raise ConfigError(
            f"{name} is a shape that mserve knows, without weights: give --load dummy to measure"
            " with random ones, or a folder that has them."
        )
    return nullcontext(model_folder(name))


def cluster_options(arguments: argparse.Namespace) -> "ClusterOptions":
    from mserve.runtime.config import ClusterOptions

    return ClusterOptions(redis=arguments.redis, cluster=arguments.cluster_id)


def admission_options(arguments: argparse.Namespace) -> "AdmissionOptions":
    from mserve.runtime.config import AdmissionOptions

    return AdmissionOptions(arguments.max_requests, arguments.max_requests_per_tenant)


def trust_options(arguments: argparse.Namespace) -> "TrustOptions":
    from mserve.runtime.config import CLUSTER_TOKEN, TrustOptions

    has_clients = hasattr(arguments, "api_keys")  # a worker has routers
    keys = has_clients and (arguments.api_keys or os.environ.get(API_KEYS_FILE))
    file: Path | None = arguments.cluster_token_file
    return TrustOptions(
        api_keys=Path(keys) if keys else None,
        admin_token=os.environ.get(ADMIN_TOKEN, ""),
        cluster_token=_secret(file) if file else os.environ.get(CLUSTER_TOKEN, ""),
        tls_cert=arguments.tls_cert,
        tls_key=arguments.tls_key,
        tls_ca=getattr(arguments, "tls_ca", None),
    )


def _secret(file: Path) -> str:
    """The file's only line. Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    try:
        secret = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--cluster-token-file {file} cannot be read: {error}.") from None
    if not secret:
        raise ConfigError(f"--cluster-token-file {file} is empty.")
    return secret


def engine_options(arguments: argparse.Namespace) -> "EngineOptions":
    from mserve.runtime.config import EngineOptions, byte_size
    from mserve.runtime.traffic.objectives import seconds

    kv_memory: str | None = arguments.kv_memory
    return EngineOptions(
        device=arguments.device,
        dtype=arguments.dtype or ("float32" if arguments.device == "cpu" else "bfloat16"),
        page_size=arguments.page_size,
        gpus=getattr(arguments, "gpus", 1),  # `serve` has the strategy's
        first_gpu=getattr(arguments, "first_gpu", None),
        load=arguments.load,
        kv_memory_bytes=byte_size(kv_memory, "--kv-memory") if kv_memory else None,
        gpu_memory_share=arguments.gpu_memory_share,
        host_cache_bytes=byte_size(str(arguments.host_cache), "--host-cache"),
        prefix_cache=not arguments.no_prefix_cache,
        queue=arguments.queue,
        queue_groups=arguments.queue_groups,
        batch=arguments.batch,
        spread=arguments.spread,
        patience_s=seconds(arguments.patience, "--patience", may_be_0=True),
        fill=arguments.fill,
        max_model_len=arguments.max_model_len,
        max_batch_tokens=arguments.max_batch_tokens,
        chunk_tokens=arguments.chunk_tokens,
        max_running=arguments.max_running,
        max_sequences=arguments.max_sequences,
        threads=arguments.threads,
        overlap=arguments.device != "cpu" if arguments.overlap is None else arguments.overlap,
        checksum_kv=arguments.checksum_kv,
        cost_cache=_cost_cache(arguments.cost_cache),
    )


def _cost_cache(given: str | None) -> str:
    if given == "none":
        return ""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return str(Path(given or cache / "mserve").expanduser())
