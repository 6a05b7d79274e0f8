"""What can be said to the commands that serve: their flags, in groups that several have in common.

Knows no option's meaning: serving_options.py reads what was said.
"""

import argparse
from pathlib import Path


def add_front(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="DIR", help="Hugging Face folder (default: the small one)"
    )
    parser.add_argument("--served-model-name", metavar="NAME", help="the name clients use")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument(
        "--max-requests",
        type=int,
        default=4096,
        metavar="N",
        help="under way at once; more are answered 429 (default: %(default)s)",
    )
    parser.add_argument(
        "--max-requests-per-tenant", type=int, metavar="N", help="of one `user` (default: all)"
    )
    parser.add_argument(
        "--api-keys",
        type=Path,
        metavar="FILE",
        help="only requests with a key of this file are served (see mserve key)",
    )
    add_tls(parser)
    add_log_level(parser)


def add_tls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tls-cert", type=Path, metavar="FILE", help="serve https: PEM, with chain"
    )
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")


def _add_secret(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster-token-file",
        type=Path,
        metavar="FILE",
        help="the secret that routers and workers share (or MSERVE_CLUSTER_TOKEN)",
    )


def add_cluster(parser: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    _add_secret(parser)
    parser.add_argument("--redis", metavar="URL", default="", required=required, help=text)
    parser.add_argument(
        "--cluster-id", default="default", metavar="ID", help="separates clusters on one Redis"
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    _add_model(group)
    _add_memory(group)
    _add_batching(group)
    _add_running(group)


def _add_model(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    group.add_argument(
        "--dtype", help="float32, bfloat16 or float16 (default: float32 on cpu, bfloat16 on cuda)"
    )
    group.add_argument(
        "--load",
        choices=("auto", "dummy"),
        default="auto",
        help="dummy: random weights for a config.json alone or a shape's name, to measure with",
    )


def _add_memory(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--page-size", type=int, default=16, metavar="TOKENS")
    group.add_argument(
        "--kv-memory",
        metavar="SIZE",
        help="for KV, per worker (default: 256MiB; on a GPU see --gpu-memory-share)",
    )
    group.add_argument(
        "--gpu-memory-share",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="of the memory that weights leave free, for KV and computing (default: %(default)s)",
    )
    group.add_argument(
        "--host-cache", default="0", metavar="SIZE", help="host memory for KV that leaves it"
    )
    group.add_argument(
        "--no-prefix-cache", action="store_true", help="keep no KV of finished requests"
    )


def _add_batching(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--queue",
        choices=("fcfs", "hit_ratio", "deadline", "priority"),
        default="fcfs",
        help="which waiting request goes first",
    )
    group.add_argument(
        "--queue-groups", type=int, default=10, metavar="N", help="of --queue hit_ratio"
    )
    group.add_argument(
        "--batch",
        choices=("continuous", "aligned"),
        default="continuous",
        help="who decodes together: all that are ready, or those of similar length",
    )
    group.add_argument(
        "--spread", type=float, default=2.0, metavar="RATIO", help="of --batch aligned"
    )
    group.add_argument(
        "--patience", type=float, default=0.05, metavar="SECONDS", help="of --batch aligned"
    )
    group.add_argument(
        "--fill", type=float, default=0.8, metavar="SHARE", help="of --batch aligned"
    )
    group.add_argument("--max-model-len", type=int, metavar="TOKENS", help="prompt and answer")
    group.add_argument("--max-batch-tokens", type=int, default=2048, metavar="TOKENS")
    group.add_argument("--chunk-tokens", type=int, default=512, metavar="TOKENS")
    group.add_argument("--max-running", type=int, default=256, metavar="REQUESTS")
    group.add_argument("--max-sequences", type=int, default=4096, metavar="REQUESTS")


def _add_running(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--threads", type=int, help="of torch (default: cores / workers)")
    group.add_argument(
        "--overlap",
        action=argparse.BooleanOptionalAction,
        help="plan a step while the one before runs (default: on cuda)",
    )
    group.add_argument(
        "--checksum-kv", action="store_true", help="send a checksum with all KV that moves"
    )
    group.add_argument(
        "--cost-cache",
        metavar="DIR",
        help="where measured costs are kept between starts, or none (default: ~/.cache/mserve)",
    )


def add_log_level(parser: argparse.ArgumentParser) -> None:
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", choices=levels, default="info")
