"""The `mserve` command: arguments in, exit codes out (0 fine, 1 problems found, 2 usage or set-up).

The one place that joins language, compiler and runtime. Imports what a command needs when it runs,
so that `mserve check` starts fast. Knows no work of its own.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mserve import __version__

if TYPE_CHECKING:
    from mserve.compiler.pipeline import CompiledStrategy
    from mserve.dsl.check import Checked
    from mserve.runtime.config import ClusterOptions, EngineOptions

TEXT_FORMATS = ("full", "concise", "github")
CHECK_FORMATS = (*TEXT_FORMATS, "json", "sarif")
DESCRIPTION = """\
mserve serves language models by a strategy that you write down in a .mserve file.
"""
EPILOG = """\
start here:
  mserve check my.mserve          find every mistake in a strategy
  mserve plan balanced            see what it does with a request
  mserve serve balanced           serve the small model that ships, OpenAI-compatible

FILE is a path, or the name of a shipped strategy (data_parallel, least_loaded, prefill_decode,
cache_aware, balanced, migration).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    from mserve.runtime.errors import MserveError

    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        return code
    except MserveError as error:
        print(f"mserve: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `mserve plan ... | head`
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


# --- arguments ---------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mserve",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mserve {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_check(commands)
    _add_plan(commands)
    _add_serve(commands)
    _add_router(commands)
    _add_worker(commands)
    _add_demo(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_check(commands: Commands) -> None:
    parser = commands.add_parser("check", help="report every problem of strategy files")
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--format", choices=CHECK_FORMATS, default="full")
    parser.add_argument("--warn-only", action="store_true", help="warnings alone exit with 0")
    parser.set_defaults(run=_check)


def _add_plan(commands: Commands) -> None:
    parser = commands.add_parser("plan", help="show what a strategy does with a request")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="'NAME = VALUE'",
        help="fix an observation, as in a strategy's tests: 'tokens(prompt) = 4000'",
    )
    parser.add_argument(
        "--cluster", action="append", default=[], metavar="POOL=COUNT", help="workers of a pool"
    )
    parser.add_argument("--set", action="append", default=[], metavar="PARAM=VALUE")
    parser.add_argument("--after", default="", metavar="PASS", help="what this pass leaves")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="write to a file")
    parser.set_defaults(run=_plan)


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
    _add_engine(parser)
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
    _add_log_level(parser)


def _add_cluster(parser: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    parser.add_argument("--redis", metavar="URL", default="", required=required, help=text)
    parser.add_argument(
        "--cluster-id", default="default", metavar="ID", help="separates clusters on one Redis"
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    group.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    group.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    group.add_argument("--page-size", type=int, default=16, metavar="TOKENS")
    group.add_argument("--kv-memory", default="256MiB", metavar="SIZE", help="for KV, per worker")
    group.add_argument("--max-model-len", type=int, metavar="TOKENS", help="prompt and answer")
    group.add_argument("--max-batch-tokens", type=int, default=2048, metavar="TOKENS")
    group.add_argument("--chunk-tokens", type=int, default=512, metavar="TOKENS")
    group.add_argument("--max-running", type=int, default=256, metavar="REQUESTS")
    group.add_argument("--threads", type=int, help="of torch (default: cores / workers)")


def _add_log_level(parser: argparse.ArgumentParser) -> None:
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", choices=levels, default="info")


# --- commands ----------------------------------------------------------------------------------


def _check(arguments: argparse.Namespace) -> int:
    from mserve.dsl.diagnostics import Severity

    results = [_checked(name) for name in arguments.files]
    print(_rendered(results, arguments.format), end="")
    found = [problem for result in results for problem in result.diagnostics]
    if arguments.warn_only:
        found = [problem for problem in found if problem.severity is Severity.ERROR]
    return 1 if found else 0


def _plan(arguments: argparse.Namespace) -> int:
    from mserve.compiler.explain import PlanRequest, plan_json, plan_text
    from mserve.compiler.givens import GivenError
    from mserve.runtime.errors import ConfigError

    compiled = _compiled(arguments.file)
    if compiled is None:
        return 1
    asked = PlanRequest(arguments.cluster, arguments.given, arguments.set, arguments.after)
    show = plan_json if arguments.format == "json" else plan_text
    try:
        text = show(compiled, asked).rstrip("\n") + "\n"
    except GivenError as error:
        raise ConfigError(str(error)) from None
    if arguments.output is None:
        print(text, end="")
    else:
        arguments.output.write_text(text, "utf-8")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from mserve.runtime.config import ServeOptions, model_folder, model_name, worker_counts
    from mserve.runtime.http_server import run_until_stopped
    from mserve.runtime.logs import configure_logging
    from mserve.runtime.serving import serve_cluster

    strategy = _servable(arguments.file)
    if strategy is None:
        return 1
    model = model_folder(arguments.model)
    options = ServeOptions(
        model=model,
        served_model=arguments.served_model_name or model_name(model),
        host=arguments.host,
        port=arguments.port,
        cluster=_cluster_options(arguments),
        engine=_engine_options(arguments),
        workers=worker_counts(arguments.cluster),
        log_dir=arguments.log_dir,
    )
    configure_logging(arguments.log_level)
    run_until_stopped(lambda stop: serve_cluster(strategy, options, stop, _say_ready))
    return 0


def _router(arguments: argparse.Namespace) -> int:
    from mserve.runtime.config import model_folder, model_name
    from mserve.runtime.http_server import bind, run_until_stopped
    from mserve.runtime.logs import configure_logging
    from mserve.runtime.router.server import RouterConfig, run_router

    strategy = _servable(arguments.file)
    if strategy is None:
        return 1
    model = model_folder(arguments.model)
    cluster = _cluster_options(arguments)
    config = RouterConfig(
        strategy=strategy,
        model=model,
        served_model=arguments.served_model_name or model_name(model),
        redis=cluster.redis,
        cluster=cluster.cluster,
    )
    configure_logging(arguments.log_level)
    listener = bind(arguments.host, arguments.port)
    run_until_stopped(lambda stop: run_router(config, listener, stop, _say_ready))
    return 0


def _worker(arguments: argparse.Namespace) -> int:
    from mserve.runtime.config import model_folder, threads_per_worker
    from mserve.runtime.http_server import run_until_stopped
    from mserve.runtime.logs import configure_logging
    from mserve.runtime.worker.server import WorkerConfig, connect_redis, run_worker

    config = WorkerConfig.of(
        name=arguments.name or f"{arguments.pool}-0",
        pool=arguments.pool,
        model=model_folder(arguments.model),
        engine=_engine_options(arguments),
        default_threads=threads_per_worker(1),
        host=arguments.host,
        port=arguments.port,
        advertise=arguments.advertise or "",
    )
    configure_logging(arguments.log_level)
    cluster = _cluster_options(arguments)
    run_until_stopped(lambda stop: run_worker(config, connect_redis(cluster), stop))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from mserve.runtime.demo import run_demo

    strategy = _servable(arguments.file)
    return 1 if strategy is None else asyncio.run(run_demo(strategy, arguments.file))


# --- shared ------------------------------------------------------------------------------------


def _strategy_path(name: str) -> Path:
    """A file, or the shipped strategy of that name. Raises ConfigError with what there is."""
    from importlib.resources import files

    from mserve.runtime.errors import ConfigError

    path = Path(name)
    if path.is_file():
        return path
    shipped = Path(str(files("mserve.strategies")))
    if (shipped / f"{name}.mserve").is_file():
        return shipped / f"{name}.mserve"
    known = sorted(file.stem for file in shipped.glob("*.mserve"))
    raise ConfigError(_no_strategy(name, known))


def _no_strategy(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(Path(name).stem, known, n=1)
    hint = f"Did you mean '{near[0]}'?" if near else f"Shipped strategies: {', '.join(known)}."
    return f"There is no file '{name}', and no shipped strategy of that name. {hint}"


def _checked(name: str) -> "Checked":
    from mserve.dsl.check import check_bytes
    from mserve.runtime.errors import ConfigError

    path = _strategy_path(name)
    try:
        return check_bytes(path.read_bytes(), str(path) if Path(name).is_file() else path.name)
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}.") from None


def _compiled(name: str) -> "CompiledStrategy | None":
    """The compiled strategy, or None after its errors have been printed."""
    from mserve.compiler.pipeline import compile_strategy
    from mserve.compiler.scope import CompileError
    from mserve.runtime.errors import ConfigError

    checked = _checked(name)
    print(_rendered([checked], "full"), end="", file=sys.stderr)
    if checked.strategy is None:
        return None
    try:
        return compile_strategy(checked)
    except CompileError as error:
        raise ConfigError(f"{name} cannot be compiled: {error}.") from None


def _rendered(results: "Sequence[Checked]", style: str) -> str:
    """All diagnostics of some files in one of `mserve check`'s formats."""
    if style in TEXT_FORMATS and not any(result.diagnostics for result in results):
        return ""
    from mserve.dsl.render import render_all

    return render_all([(result.source, result.diagnostics) for result in results], style)


def _servable(name: str) -> "CompiledStrategy | None":
    """Like `_compiled`; raises ConfigError for what the runtime cannot carry out yet."""
    from mserve.runtime.errors import ConfigError

    strategy = _compiled(name)
    if strategy is not None and strategy.unsupported:
        reasons = "\n  ".join(strategy.unsupported)
        raise ConfigError(f"'{strategy.name}' cannot be served yet:\n  {reasons}")
    return strategy


def _cluster_options(arguments: argparse.Namespace) -> "ClusterOptions":
    from mserve.runtime.config import ClusterOptions

    return ClusterOptions(redis=arguments.redis, cluster=arguments.cluster_id)


def _engine_options(arguments: argparse.Namespace) -> "EngineOptions":
    from mserve.runtime.config import EngineOptions, byte_size

    return EngineOptions(
        device=arguments.device,
        dtype=arguments.dtype,
        page_size=arguments.page_size,
        kv_memory_bytes=byte_size(str(arguments.kv_memory), "--kv-memory"),
        max_model_len=arguments.max_model_len,
        max_batch_tokens=arguments.max_batch_tokens,
        chunk_tokens=arguments.chunk_tokens,
        max_running=arguments.max_running,
        threads=arguments.threads,
    )


def _say_ready(url: str) -> None:
    print(f"mserve is ready: {url}/v1", file=sys.stderr, flush=True)
