"""How an engine process begins and ends: `python -m mserve.runtime.worker.startup FD PULSE`.

Builds model, transport, engine and service from the configuration that comes over the socket FD,
says Ready or why not, and runs the loop (process.py); a thread says on PULSE that it lives. torch
and UCX are imported here, late.
"""

import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mserve.runtime.cluster.membership import KvLayout
from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.decode_cost import NO_COST, DecodeCost
from mserve.runtime.engine.engine import Engine
from mserve.runtime.errors import ConfigError
from mserve.runtime.transport.base import Transport
from mserve.runtime.worker import ipc
from mserve.runtime.worker.process import EngineProcess
from mserve.runtime.worker.pulse import start_pulse
from mserve.runtime.worker.service import WorkerService
from mserve.runtime.worker.steps import OverlappedSteps, Steps

if TYPE_CHECKING:
    from mserve.runtime.engine.runner import TorchRunner

logger = logging.getLogger("mserve.engine")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the HTTP process, which decides
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    code = 1
    start_pulse(int(sys.argv[2]))
    try:
        code = _serve(socket.socket(fileno=int(sys.argv[1])))
    except Exception:
        logger.exception("the engine process ends by a fault of its own")
    finally:
        sys.stderr.flush()
        os._exit(code)  # torch and UCX threads must not delay the end


def _serve(channel: socket.socket) -> int:
    config = _receive_config(channel)
    if config is None:
        return 0
    try:
        parts = _build(config)
    except ConfigError as error:
        channel.sendall(ipc.encode_frame([ipc.FailedStart(str(error))]))
        return 2
    channel.sendall(ipc.encode_frame([parts.ready]))
    try:
        kind = OverlappedSteps if config.overlap and config.gpus == 1 else Steps
        waits = config.device == "cpu"  # a GPU is waited for only where it sampled something
        steps = kind(parts.service, parts.runner, parts.ready.cost, time.monotonic, waits=waits)
        EngineProcess(channel, parts.service, steps, parts.transport).run()
    finally:
        parts.transport.close()
        parts.runner.close()
    return 0


def _receive_config(channel: socket.socket) -> ipc.EngineConfig | None:
    """None if the HTTP process has gone already."""
    buffer = bytearray()
    while True:
        data = channel.recv(65536)
        if not data:
            return None
        buffer += data
        for body in ipc.split_frames(buffer):
            return msgspec.msgpack.decode(body, type=ipc.EngineConfig)


# --- the parts ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the loop drives, and what the HTTP process is told of it."""

    service: WorkerService
    runner: "TorchRunner"
    transport: Transport
    ready: ipc.Ready


def _build(config: ipc.EngineConfig) -> _Parts:
    """Raises ConfigError."""
    positions = _positions(config)
    runner = _load(config)
    transport, warning = _open_transport(config)
    layout = _layout(config, runner)
    cost = _costs(config, layout, runner)
    # An answer that no number of pages could hold ends at its limit, not with an error.
    limit = min(positions, runner.pool.num_pages * config.page_size)
    engine = Engine(_limits(config, runner, min(config.max_model_len or limit, limit)))
    ready = ipc.Ready(
        layout=layout,
        transport_address=transport.address,
        page_size=config.page_size,
        num_pages=runner.pool.num_pages,
        max_model_len=engine.config.max_model_len,
        cost=cost,
        notes=tuple(note for note in (warning, _short_context(limit, positions)) if note),
    )
    return _Parts(_service(config, engine, runner, transport, layout), runner, transport, ready)


def _positions(config: ipc.EngineConfig) -> int:
    """The model's. Raises ConfigError if requests may be longer than that."""
    from mserve.runtime.engine.loading import find_config

    positions = find_config(config.model, config.load == "dummy").max_positions
    if config.max_model_len is not None and config.max_model_len > positions:
        raise ConfigError(
            f"--max-model-len is {config.max_model_len}, but the model has {positions} positions."
        )
    return positions


def _load(config: ipc.EngineConfig) -> "TorchRunner":
    # Torch takes seconds to import; the HTTP process must be able to say so meanwhile.
    from mserve.runtime.engine.loading import load_runner

    return load_runner(
        config.model,
        load=config.load,
        device=config.device,
        dtype=config.dtype,
        page_size=config.page_size,
        kv_memory_bytes=config.kv_memory_bytes,
        gpu_memory_share=config.gpu_memory_share,
        max_batch_tokens=config.max_batch_tokens,
        max_running=config.max_running,
        host_memory_bytes=config.host_cache_bytes,
        gpus=config.gpus,
        first_gpu=config.first_gpu,
        on_lost_rank=_end_without,
        threads=config.threads,
    )


def _end_without(loss: str) -> None:
    """A model without one of its ranks computes nothing, and a sum with it may never return."""
    logger.error("the engine process ends: %s", loss)
    sys.stderr.flush()
    os._exit(1)


def _open_transport(config: ipc.EngineConfig) -> tuple[Transport, str | None]:
    """With what an operator should know of it."""
    from mserve.runtime.transport.ucx import UcxTransport, cma_warning
    from mserve.runtime.transport.ucx_endpoint import DEFAULT_OPTIONS, LOOPBACK_OPTIONS

    options = LOOPBACK_OPTIONS if config.loopback_only else DEFAULT_OPTIONS
    return UcxTransport(options=options), cma_warning()


def _layout(config: ipc.EngineConfig, runner: "TorchRunner") -> KvLayout:
    from mserve.runtime.engine.weights import dummy_digest, weights_digest

    folder = Path(config.model)
    is_dummy = config.load == "dummy"
    return KvLayout(
        model=folder.resolve().name,
        weights=dummy_digest(folder, config.device) if is_dummy else weights_digest(folder),
        dtype=config.dtype,
        num_layers=runner.config.num_layers,
        kv_heads=runner.config.num_kv_heads,
        head_dim=runner.config.head_dim,
    )


def _costs(config: ipc.EngineConfig, layout: KvLayout, runner: "TorchRunner") -> CostProfile:
    """Measured, or as they were measured before for all that they depend on."""
    from mserve.runtime.engine.backend import device_name
    from mserve.runtime.engine.calibration import measure_costs
    from mserve.runtime.engine.cost_cache import known_costs

    if not config.cost_cache:
        return measure_costs(runner, time.perf_counter)
    settings = (config.gpus, config.threads, config.page_size, runner.pool.num_pages)
    what = f"{layout.fingerprint} on {device_name(config.device)} with {settings}"
    return known_costs(
        Path(config.cost_cache), what, lambda: measure_costs(runner, time.perf_counter)
    )


def _decode_cost(runner: "TorchRunner") -> DecodeCost:
    from mserve.runtime.engine.calibration import measure_decodes

    cost = measure_decodes(runner, time.perf_counter)
    logger.info(
        "a decode step takes %.3g ms, %.3g us more for each sequence, %.3g ns for each position of "
        "its context, %.3g ns for each of the longest one's",
        *(1e3 * cost.fixed_s, 1e6 * cost.sequence_s, 1e9 * cost.position_s, 1e9 * cost.longest_s),
    )
    return cost


def _short_context(limit: int, positions: int) -> str:
    """For the log: what was set for KV bounds prompts more than the model does."""
    if limit >= positions:
        return ""
    return (
        f"KV memory holds {limit} tokens, fewer than the model's {positions} positions: longer "
        "requests are refused. --kv-memory sets it."
    )


def _limits(config: ipc.EngineConfig, runner: "TorchRunner", max_model_len: int) -> EngineConfig:
    return EngineConfig(
        page_size=config.page_size,
        num_pages=runner.pool.num_pages,
        host_pages=runner.pool.host_pages,
        prefix_cache=config.prefix_cache,
        queue=config.queue,
        queue_groups=config.queue_groups,
        batch=config.batch,
        spread=config.spread,
        patience_s=config.patience_s,
        fill=config.fill,
        decode_cost=_decode_cost(runner) if config.batch == "aligned" else NO_COST,
        max_batch_tokens=config.max_batch_tokens,
        chunk_tokens=config.chunk_tokens,
        max_running=config.max_running,
        max_sequences=config.max_sequences,
        max_model_len=max_model_len,
        eos_token_ids=frozenset(runner.config.eos_ids),
        vocab_size=runner.config.vocab_size,
    )


def _service(
    config: ipc.EngineConfig,
    engine: Engine,
    runner: "TorchRunner",
    transport: Transport,
    layout: KvLayout,
) -> WorkerService:
    offset_s = time.time() - time.monotonic()
    return WorkerService(
        engine,
        runner.kv,
        transport,
        worker=config.worker,
        incarnation=config.incarnation,
        fingerprint=layout.fingerprint,
        unix_s=lambda now: now + offset_s,
        lease_s=config.lease_s,
        checksum_kv=config.checksum_kv,
    )


if __name__ == "__main__":
    main()
