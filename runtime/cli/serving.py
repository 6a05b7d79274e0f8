"""The commands that run something: serve, router, worker, demo."""

import argparse
import asyncio
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from mserve.runtime.cli.strategies import Commands, servable

if TYPE_CHECKING:
    from mserve.compiler.pipeline import CompiledStrategy
    from mserve.runtime.config import AdmissionOptions, ClusterOptions, EngineOptions, TrustOptions


ADMIN_TOKEN = "MSERVE_ADMIN_TOKEN"
"""Who knows its value may change the strategy while it is served (docs/http.md)."""
API_KEYS_FILE = "MSERVE_API_KEYS_FILE"


def add_commands(commands: Commands) -> None:
    _add_serve(commands)
    _add_router(commands)
    _add_worker(commands)
    _add_demo(commands)


def _add_serve(commands: Commands) -> None:
    parser = commands.add_parser("serve", help="serve a model: Redis, workers and router")
    parser.add_argument("file", metavar="FILE")
    _add_front(parser)
    _add_cluster(parser, "Redis to use, redis://HOST:PORT/DB (default: one is started)")
    parser.add_argument(
        "--cluster",
        action="append",
        default=[],
        metavar="POOL=COUNT",
        help="start COUNT workers in POOL instead of what the strategy says",
    )
    _add_engine(parser)
    parser.add_argument("--log-dir", type=Path, help="keep each worker's whole log in this folder")
    parser.set_defaults(run=_serve)


def _add_router(commands: Commands) -> None:
    parser = commands.add_parser("router", help="only the router, over workers that run elsewhere")
    parser.add_argument("file", metavar="FILE")
    _add_front(parser)
    _add_cluster(parser, "Redis of the cluster, redis://HOST:PORT/DB", required=True)
    parser.add_argument(
        "--tls-ca", type=Path, metavar="FILE", help="who signed the workers' certificates (PEM)"
    )
    parser.set_defaults(run=_router)


def _add_worker(commands: Commands) -> None:
    parser = commands.add_parser("worker", help="only one worker, for a router that runs elsewhere")
    parser.add_argument("--pool", required=True, help="the strategy's pool that it joins")
    parser.add_argument("--name", help="unique in the cluster (default: POOL-0)")
    parser.add_argument(
        "--model", metavar="DIR", help="Hugging Face folder (default: the small one)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--advertise", metavar="HOST", help="address that routers use (default: --host)"
    )
    _add_cluster(parser, "Redis of the cluster, redis://HOST:PORT/DB", required=True)
    parser.add_argument(
        "--gpus",
        type=int,
        default=1,
        metavar="N",
        help="tensor-parallel degree; the pool's `gpus` (default: %(default)s)",
    )
    parser.add_argument(
        "--first-gpu",
        type=int,
        metavar="INDEX",
        help="the first of its GPUs, for --device cuda, counted round and round (default: 0)",
    )
    _add_engine(parser)
    _add_tls(parser)
    _add_log_level(parser)
    parser.set_defaults(run=_worker)


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser("demo", help="serve one long prompt and show the plan's timeline")
    parser.add_argument("file", nargs="?", default="balanced", metavar="FILE")
    parser.set_defaults(run=_demo)


def _add_front(parser: argparse.ArgumentParser) -> None:
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
    _add_tls(parser)
    _add_log_level(parser)


def _add_tls(parser: argparse.ArgumentParser) -> None:
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


def _add_cluster(parser: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    _add_secret(parser)
    parser.add_argument("--redis", metavar="URL", default="", required=required, help=text)
    parser.add_argument(
        "--cluster-id", default="default", metavar="ID", help="separates clusters on one Redis"
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    group.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    group.add_argument(
        "--dtype", help="float32, bfloat16 or float16 (default: float32 on cpu, bfloat16 on cuda)"
    )
    group.add_argument("--page-size", type=int, default=16, metavar="TOKENS")
    group.add_argument(
        "--load",
        choices=("auto", "dummy"),
        default="auto",
        help="dummy: random weights for a config.json alone or a shape's name, to measure with",
    )
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
    group.add_argument(
        "--queue",
        choices=("fcfs", "hit_ratio", "deadline", "priority"),
        default="fcfs",
        help="which waiting request goes first",
    )
    group.add_argument(
        "--queue-groups", type=int, default=10, metavar="N", help="of --queue hit_ratio"
    )
    group.add_argument("--max-model-len", type=int, metavar="TOKENS", help="prompt and answer")
    group.add_argument("--max-batch-tokens", type=int, default=2048, metavar="TOKENS")
    group.add_argument("--chunk-tokens", type=int, default=512, metavar="TOKENS")
    group.add_argument("--max-running", type=int, default=256, metavar="REQUESTS")
    group.add_argument("--max-sequences", type=int, default=4096, metavar="REQUESTS")
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


def _add_log_level(parser: argparse.ArgumentParser) -> None:
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", choices=levels, default="info")


def _serve(arguments: argparse.Namespace) -> int:
    strategy = servable(arguments.file)
    if strategy is None:
        return 1
    with _model(arguments) as model:
        _serve_model(arguments, strategy, model)
    return 0


def _serve_model(arguments: argparse.Namespace, strategy: "CompiledStrategy", model: Path) -> None:
    from mserve.runtime.cli.live import LiveLanguage
    from mserve.runtime.config import ServeOptions, model_name, worker_counts
    from mserve.runtime.http_server import run_until_stopped
    from mserve.runtime.logs import configure_logging
    from mserve.runtime.serving import serve_cluster

    options = ServeOptions(
        model=model,
        served_model=arguments.served_model_name or model_name(model),
        host=arguments.host,
        port=arguments.port,
        cluster=_cluster_options(arguments),
        engine=_engine_options(arguments),
        admission=_admission_options(arguments),
        workers=worker_counts(arguments.cluster),
        log_dir=arguments.log_dir,
        trust=_trust_options(arguments),
    )
    configure_logging(arguments.log_level)
    run_until_stopped(
        lambda stop: serve_cluster(strategy, options, stop, _say_ready, LiveLanguage())
    )


def _router(arguments: argparse.Namespace) -> int:
    strategy = servable(arguments.file)
    if strategy is None:
        return 1
    with _model(arguments) as model:
        _route_model(arguments, strategy, model)
    return 0


def _route_model(arguments: argparse.Namespace, strategy: "CompiledStrategy", model: Path) -> None:
    from mserve.runtime.cli.live import LiveLanguage
    from mserve.runtime.config import model_name
    from mserve.runtime.http_server import bind, run_until_stopped
    from mserve.runtime.logs import configure_logging
    from mserve.runtime.router.server import RouterConfig, run_router

    cluster = _cluster_options(arguments)
    config = RouterConfig(
        strategy=strategy,
        model=model,
        served_model=arguments.served_model_name or model_name(model),
        redis=cluster.redis,
        cluster=cluster.cluster,
        admission=_admission_options(arguments),
        language=LiveLanguage(),
        trust=_trust_options(arguments),
    )
    configure_logging(arguments.log_level)
    listener = bind(arguments.host, arguments.port)
    run_until_stopped(lambda stop: run_router(config, listener, stop, _say_ready))


def _worker(arguments: argparse.Namespace) -> int:
    with _model(arguments) as model:
        _work_on(arguments, model)
    return 0


def _work_on(arguments: argparse.Namespace, model: Path) -> None:
    from mserve.runtime.config import threads_per_worker
    from mserve.runtime.http_server import run_until_stopped
    from mserve.runtime.logs import configure_logging
    from mserve.runtime.worker.server import WorkerConfig, connect_redis, run_worker

    config = WorkerConfig.of(
        name=arguments.name or f"{arguments.pool}-0",
        pool=arguments.pool,
        model=model,
        engine=_engine_options(arguments),
        default_threads=threads_per_worker(1),
        host=arguments.host,
        port=arguments.port,
        advertise=arguments.advertise or "",
        trust=_trust_options(arguments),
    )
    configure_logging(arguments.log_level)
    cluster = _cluster_options(arguments)
    run_until_stopped(lambda stop: run_worker(config, connect_redis(cluster), stop))


def _demo(arguments: argparse.Namespace) -> int:
    from mserve.runtime.demo import run_demo

    strategy = servable(arguments.file)
    return 1 if strategy is None else asyncio.run(run_demo(strategy, arguments.file))


def _model(arguments: argparse.Namespace) -> AbstractContextManager[Path]:
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


def _cluster_options(arguments: argparse.Namespace) -> "ClusterOptions":
    from mserve.runtime.config import ClusterOptions

    return ClusterOptions(redis=arguments.redis, cluster=arguments.cluster_id)


def _admission_options(arguments: argparse.Namespace) -> "AdmissionOptions":
    from mserve.runtime.config import AdmissionOptions

    return AdmissionOptions(arguments.max_requests, arguments.max_requests_per_tenant)


def _trust_options(arguments: argparse.Namespace) -> "TrustOptions":
    from mserve.runtime.config import CLUSTER_TOKEN, TrustOptions

    keys = getattr(arguments, "api_keys", None) or os.environ.get(API_KEYS_FILE)
    file: Path | None = arguments.cluster_token_file
    return TrustOptions(
        api_keys=Path(keys) if keys and arguments.run is not _worker else None,
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


def _engine_options(arguments: argparse.Namespace) -> "EngineOptions":
    from mserve.runtime.config import EngineOptions, byte_size

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


def _say_ready(url: str) -> None:
    print(f"mserve is ready: {url}/v1", file=sys.stderr, flush=True)
