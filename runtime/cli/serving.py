"""The commands that run something: serve, router, worker, demo."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mserve.runtime.cli.serving_flags import (
    add_cluster,
    add_engine,
    add_front,
    add_log_level,
    add_tls,
)
from mserve.runtime.cli.serving_options import (
    admission_options,
    cluster_options,
    engine_options,
    served_folder,
    trust_options,
)
from mserve.runtime.cli.strategies import Commands, servable

if TYPE_CHECKING:
    from mserve.compiler.pipeline import CompiledStrategy


def add_commands(commands: Commands) -> None:
    _add_serve(commands)
    _add_router(commands)
    _add_worker(commands)
    _add_demo(commands)


def _add_serve(commands: Commands) -> None:
    parser = commands.add_parser("serve", help="serve a model: Redis, workers and router")
    parser.add_argument("file", metavar="FILE", help="a file, or the name of a shipped strategy")
    add_front(parser)
    add_cluster(parser, "Redis to use, redis://HOST:PORT/DB (default: one is started)")
    parser.add_argument(
        "--cluster",
        action="append",
        default=[],
        metavar="POOL=COUNT",
        help="start COUNT workers in POOL; pools not named keep the strategy's count",
    )
    add_engine(parser, "What the strategy says of a pool goes before these.")
    parser.add_argument(
        "--log-dir",
        type=Path,
        metavar="DIR",
        help="keep each worker's whole log in this folder (default: only the end of a dead one's is shown)",
    )
    parser.set_defaults(run=_serve)


def _add_router(commands: Commands) -> None:
    parser = commands.add_parser("router", help="only the router, over workers that run elsewhere")
    parser.add_argument("file", metavar="FILE", help="a file, or the name of a shipped strategy")
    add_front(parser)
    add_cluster(parser, "Redis of the cluster, redis://HOST:PORT/DB", required=True)
    parser.add_argument(
        "--tls-ca", type=Path, metavar="FILE", help="who signed the workers' certificates (PEM)"
    )
    parser.set_defaults(run=_router)


def _add_worker(commands: Commands) -> None:
    parser = commands.add_parser("worker", help="only one worker, for a router that runs elsewhere")
    parser.add_argument("--pool", required=True, help="the strategy's pool that it joins")
    parser.add_argument("--name", metavar="NAME", help="unique in the cluster (default: POOL-0)")
    parser.add_argument(
        "--model", metavar="DIR", help="Hugging Face folder (default: the small one that ships)"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=0, help="0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--advertise", metavar="HOST", help="address that routers use (default: --host)"
    )
    add_cluster(parser, "Redis of the cluster, redis://HOST:PORT/DB", required=True)
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
    add_engine(parser, "A worker reads no strategy: tell it here what that says of its pool.")
    add_tls(parser)
    add_log_level(parser)
    parser.set_defaults(run=_worker)


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser("demo", help="serve one long prompt and show the plan's timeline")
    parser.add_argument(
        "file",
        nargs="?",
        default="balanced",
        metavar="FILE",
        help="a file, or the name of a shipped strategy (default: %(default)s)",
    )
    parser.set_defaults(run=_demo)


def _serve(arguments: argparse.Namespace) -> int:
    strategy = servable(arguments.file)
    if strategy is None:
        return 1
    with served_folder(arguments) as model:
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
        cluster=cluster_options(arguments),
        engine=engine_options(arguments),
        admission=admission_options(arguments),
        workers=worker_counts(arguments.cluster),
        log_dir=arguments.log_dir,
        trust=trust_options(arguments),
    )
    configure_logging(arguments.log_level)
    run_until_stopped(
        lambda stop: serve_cluster(strategy, options, stop, _say_ready, LiveLanguage())
    )


def _router(arguments: argparse.Namespace) -> int:
    strategy = servable(arguments.file)
    if strategy is None:
        return 1
    with served_folder(arguments) as model:
        _route_model(arguments, strategy, model)
    return 0


def _route_model(arguments: argparse.Namespace, strategy: "CompiledStrategy", model: Path) -> None:
    from mserve.runtime.cli.live import LiveLanguage
    from mserve.runtime.config import model_name
    from mserve.runtime.http_server import bind, run_until_stopped
    from mserve.runtime.logs import configure_logging
    from mserve.runtime.router.server import RouterConfig, run_router

    cluster = cluster_options(arguments)
    config = RouterConfig(
        strategy=strategy,
        model=model,
        served_model=arguments.served_model_name or model_name(model),
        redis=cluster.redis,
        cluster=cluster.cluster,
        admission=admission_options(arguments),
        language=LiveLanguage(),
        trust=trust_options(arguments),
    )
    configure_logging(arguments.log_level)
    listener = bind(arguments.host, arguments.port)
    run_until_stopped(lambda stop: run_router(config, listener, stop, _say_ready))


def _worker(arguments: argparse.Namespace) -> int:
    with served_folder(arguments) as model:
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
        engine=engine_options(arguments),
        default_threads=threads_per_worker(1),
        host=arguments.host,
        port=arguments.port,
        advertise=arguments.advertise or "",
        trust=trust_options(arguments),
    )
    configure_logging(arguments.log_level)
    cluster = cluster_options(arguments)
    run_until_stopped(lambda stop: run_worker(config, connect_redis(cluster), stop))


def _demo(arguments: argparse.Namespace) -> int:
    from mserve.runtime.demo import run_demo

    strategy = servable(arguments.file)
    return 1 if strategy is None else asyncio.run(run_demo(strategy, arguments.file))


def _say_ready(url: str) -> None:
    print(f"mserve is ready: {url}/v1", file=sys.stderr, flush=True)
