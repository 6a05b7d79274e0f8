"""What can be said to the commands that serve: their flags, in groups that several have in common.

Knows no option's meaning: serving_options.py reads what was said.
"""

import argparse
from pathlib import Path


def add_front(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="DIR", help="Hugging Face folder (default: the small one that ships)"
    )
    parser.add_argument(
        "--served-model-name",
        metavar="NAME",
        help="the name that clients use (default: the folder's)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--max-requests",
        type=int,
        default=4096,
        metavar="N",
        help="requests under way at once; more are answered 429 (default: %(default)s)",
    )
    parser.add_argument(
        "--max-requests-per-tenant",
        type=int,
        metavar="N",
        help="of these, those of one `user` or API key's tenant (default: all)",
    )
    parser.add_argument(
        "--api-keys",
        type=Path,
        metavar="FILE",
        help="serve only requests with a key of this file; `mserve key new` makes them (default: the"
        " environment's MSERVE_API_KEYS_FILE, else all are served)",
    )
    add_tls(parser)
    add_log_level(parser)


def add_tls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tls-cert", type=Path, metavar="FILE", help="serve https: PEM, with chain (default: http)"
    )
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")


def _add_secret(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster-token-file",
        type=Path,
        metavar="FILE",
        help="holds the secret that routers and workers share (default: the environment's"
        " MSERVE_CLUSTER_TOKEN)",
    )


def add_cluster(parser: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    _add_secret(parser)
    parser.add_argument("--redis", metavar="URL", default="", required=required, help=text)
    parser.add_argument(
        "--cluster-id",
        default="default",
        metavar="ID",
        help="separates clusters on one Redis (default: %(default)s)",
    )


def add_engine(parser: argparse.ArgumentParser, description: str) -> None:
    group = parser.add_argument_group("engine", description)
    _add_model(group)
    _add_memory(group)
    _add_batching(group)
    _add_limits(group)
    _add_running(group)


def _add_model(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--device", default="cpu", metavar="DEVICE", help="cpu or cuda (default: %(default)s)"
    )
    group.add_argument(
        "--dtype",
        help="float32, bfloat16 or float16 (default: float32 on cpu, bfloat16 on cuda)",
    )
    group.add_argument(
        "--load",
        choices=("auto", "dummy"),
        default="auto",
        help="dummy: random weights for a config.json alone or a shape's name, to measure with"
        " (default: %(default)s)",
    )


def _add_memory(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--page-size",
        type=int,
        default=16,
        metavar="TOKENS",
        help="of KV: what is allocated, cached and sent as one (default: %(default)s)",
    )
    group.add_argument(
        "--kv-memory",
        metavar="SIZE",
        help="for KV, per worker, as 16GiB (default: 256MiB; on a GPU see --gpu-memory-share)",
    )
    group.add_argument(
        "--gpu-memory-share",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="of the GPU memory that weights leave free, for KV and computing (default: %(default)s)",
    )
    group.add_argument(
        "--host-cache",
        default="0",
        metavar="SIZE",
        help="host memory for KV that leaves the GPU, per worker, as 64GiB (default: none)",
    )
    group.add_argument(
        "--no-prefix-cache", action="store_true", help="keep no KV of finished requests"
    )


def _add_batching(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--queue",
        choices=("fcfs", "hit_ratio", "deadline", "priority"),
        default="fcfs",
        help="which waiting request goes first (default: %(default)s)",
    )
    group.add_argument(
        "--queue-groups",
        type=int,
        default=10,
        metavar="N",
        help="of --queue hit_ratio: how finely it tells cached shares apart (default: %(default)s)",
    )
    group.add_argument(
        "--batch",
        choices=("continuous", "aligned"),
        default="continuous",
        help="who decodes together: all that are ready, or those of"
        " similar length (default: %(default)s)",
    )
    group.add_argument(
        "--spread",
        type=float,
        default=2.0,
        metavar="RATIO",
        help="of --batch aligned: longest over shortest KV of a batch (default: %(default)g)",
    )
    group.add_argument(
        "--patience",
        default="50ms",
        metavar="TIME",
        help="of --batch aligned: longest wait for a batch that fits (default: %(default)s)",
    )
    group.add_argument(
        "--fill",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="of --batch aligned: refill a batch below this share (default: %(default)s)",
    )


def _add_limits(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--max-model-len",
        type=int,
        metavar="TOKENS",
        help="longest prompt with its answer (default: the model's)",
    )
    group.add_argument(
        "--max-batch-tokens",
        type=int,
        default=2048,
        metavar="TOKENS",
        help="most in one step (default: %(default)s)",
    )
    group.add_argument(
        "--chunk-tokens",
        type=int,
        default=512,
        metavar="TOKENS",
        help="most of one prompt in a step; fewer keep answers even (default: %(default)s)",
    )
    group.add_argument(
        "--max-running",
        type=int,
        default=256,
        metavar="REQUESTS",
        help="most that one worker computes at once (default: %(default)s)",
    )
    group.add_argument(
        "--max-sequences",
        type=int,
        default=4096,
        metavar="REQUESTS",
        help="most that one worker holds, waiting ones included; it refuses more (default:"
        " %(default)s)",
    )


def _add_running(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--threads", type=int, metavar="N", help="of torch, per worker (default: cores / workers)"
    )
    group.add_argument(
        "--overlap",
        action=argparse.BooleanOptionalAction,
        help="plan a step while the one before runs (default: only on cuda)",
    )
    group.add_argument(
        "--checksum-kv",
        action="store_true",
        help="send a checksum with all KV that moves, and check it (default: no)",
    )
    group.add_argument(
        "--cost-cache",
        metavar="DIR",
        help="keep measured costs between starts in this folder; `none` measures at every start"
        " (default: ~/.cache/mserve)",
    )


def add_log_level(parser: argparse.ArgumentParser) -> None:
    levels = ("debug", "info", "warning", "error")
    parser.add_argument(
        "--log-level",
        choices=levels,
        default="info",
        help="the least that is logged, on stderr (default: %(default)s)",
    )
