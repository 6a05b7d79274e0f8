"""What an operator can set, checked once and said clearly when it is wrong. Plain values.

Command-line arguments become these (cli.py); nothing below reads flags or the environment.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path

from mserve.runtime.errors import ConfigError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB)?", re.IGNORECASE)
MIN_TOKEN_CHARACTERS = 16
CLUSTER_TOKEN = "MSERVE_CLUSTER_TOKEN"
"""The environment variable with the secret that a cluster's members share."""
QUEUES = ("fcfs", "hit_ratio", "deadline", "priority")
BATCHES = ("continuous", "aligned")
LOADS = ("auto", "dummy")
_FACTORS = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How every worker's engine is built. `threads` None: the cores divided by the workers."""

    device: str = "cpu"
    dtype: str = "float32"
    gpus: int = 1
    first_gpu: int | None = None
    load: str = "auto"
    page_size: int = 16
    kv_memory_bytes: int | None = None  # None: a share of a GPU's memory, 256 MiB on a CPU
    gpu_memory_share: float = 0.9  # of what the weights leave free
    host_cache_bytes: int = 0
    prefix_cache: bool = True
    queue: str = "fcfs"
    queue_groups: int = 10
    batch: str = "continuous"
    spread: float = 2.0
    patience_s: float = 0.05
    fill: float = 0.8
    max_model_len: int | None = None
    max_batch_tokens: int = 2048
    chunk_tokens: int = 512
    max_running: int = 256
    max_sequences: int = 4096
    threads: int | None = None
    overlap: bool = False
    checksum_kv: bool = False
    cost_cache: str = ""  # a folder for measured costs; "": none are kept

    def __post_init__(self) -> None:
        positive = {
            "--gpus": self.gpus,
            "--page-size": self.page_size,
            "--kv-memory": 1 if self.kv_memory_bytes is None else self.kv_memory_bytes,
            "--max-model-len": 1 if self.max_model_len is None else self.max_model_len,
            "--max-batch-tokens": self.max_batch_tokens,
            "--chunk-tokens": self.chunk_tokens,
            "--max-running": self.max_running,
            "--max-sequences": self.max_sequences,
            "--queue-groups": self.queue_groups,
            "--threads": 1 if self.threads is None else self.threads,
        }
        for flag, value in positive.items():
            if value <= 0:
                raise ConfigError(f"{flag} must be at least 1, not {value}.")
        if not 0 < self.gpu_memory_share <= 1:
            raise ConfigError(
                f"--gpu-memory-share is a share between 0 and 1, not {self.gpu_memory_share}."
            )
        if self.first_gpu is not None and self.first_gpu < 0:
            raise ConfigError(f"--first-gpu counts from 0, not {self.first_gpu}.")
        if self.load not in LOADS:
            raise ConfigError(f"--load takes {', '.join(LOADS)}, not {self.load!r}.")
        if self.queue not in QUEUES:
            raise ConfigError(f"--queue takes {', '.join(QUEUES)}, not {self.queue!r}.")
        if self.batch not in BATCHES:
            raise ConfigError(f"--batch takes {', '.join(BATCHES)}, not {self.batch!r}.")
        if self.spread < 1 or self.patience_s < 0 or not 0 <= self.fill <= 1:
            raise ConfigError(
                "--spread is at least 1, --patience not negative and --fill from 0 to 1, not "
                f"{self.spread:g}, {self.patience_s:g} and {self.fill:g}."
            )


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Where a cluster's members find each other. `redis` "" starts one (`mserve serve` only)."""

    redis: str = ""
    cluster: str = "default"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.cluster):
            raise ConfigError(
                f"--cluster-id takes letters, digits, '-' and '_', not {self.cluster!r}."
            )


@dataclass(frozen=True, slots=True)
class AdmissionOptions:
    """Requests that one router has under way at once; `per_tenant` None: as many as in all."""

    max_requests: int = 4096
    per_tenant: int | None = None

    def __post_init__(self) -> None:
        given = {"--max-requests": self.max_requests, "--max-requests-per-tenant": self.per_tenant}
        for flag, value in given.items():
            if value is not None and value <= 0:
                raise ConfigError(f"{flag} must be at least 1, not {value}.")


@dataclass(frozen=True, slots=True)
class TrustOptions:
    """Who is let in (docs/security.md). "" and None: that part is off."""

    api_keys: Path | None = None
    admin_token: str = field(default="", repr=False)  # "": the strategy cannot be changed live
    cluster_token: str = field(default="", repr=False)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None  # of the workers' certificates; None: the system's

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("--tls-cert and --tls-key go together: give both or neither.")
        if self.cluster_token and len(self.cluster_token) < MIN_TOKEN_CHARACTERS:
            raise ConfigError(
                f"The cluster's token has less than {MIN_TOKEN_CHARACTERS} characters; "
                "`openssl rand -hex 32` makes one."
            )


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """`mserve serve`: a whole cluster on this machine. `workers` overrides pools' own counts."""

    model: Path
    served_model: str
    host: str = "127.0.0.1"
    port: int = 8000
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)
    admission: AdmissionOptions = field(default_factory=AdmissionOptions)
    workers: Mapping[str, int] = field(default_factory=dict)
    log_dir: Path | None = None
    trust: TrustOptions = field(default_factory=TrustOptions)


def shipped_model() -> Path:
    """The small model that comes with the package."""
    return Path(str(files("mserve") / "model"))


def model_folder(text: str | None) -> Path:
    """A model folder that exists; None is the shipped one. Raises ConfigError."""
    if text is None:
        return shipped_model()
    path = Path(text).expanduser()
    if not path.is_dir():
        raise ConfigError(
            f"The model folder {text!r} does not exist. --model takes a Hugging Face folder with"
            " config.json, tokenizer.json and safetensors; without it the small model that ships"
            " with mserve is served."
        )
    return path


def model_name(folder: Path) -> str:
    """The name a model is served under by default: its folder's, or `mserve-tiny`."""
    return "mserve-tiny" if folder == shipped_model() else folder.resolve().name


def byte_size(text: str, flag: str) -> int:
    """`512MiB` as bytes. Raises ConfigError naming the flag."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{flag} takes a size such as 512MiB or 16GiB, not {text!r}.")
    return int(float(match[1]) * _FACTORS[(match[2] or "B").lower()])


def worker_counts(texts: Sequence[str]) -> dict[str, int]:
    """`["decode=4"]` as a mapping. Raises ConfigError for what is not `pool=count`."""
    counts: dict[str, int] = {}
    for text in texts:
        pool, _, count = text.partition("=")
        if not pool or not count.isdigit() or int(count) < 1:
            raise ConfigError(f"--cluster takes POOL=COUNT such as decode=2, not {text!r}.")
        counts[pool] = int(count)
    return counts


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def threads_per_worker(num_workers: int) -> int:
    """This machine's cores shared out among the workers that it runs."""
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // max(1, num_workers))
