"""What happens in one drill, drawn from its seed: a cluster, traffic, and what goes wrong. Data only."""

from dataclasses import dataclass
from random import Random
from typing import Literal

from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.messages import Render, Sampling, pack_tokens
from mserve.runtime.router.requests import GenerationRequest
from mserve.runtime.simulator.model import VOCABULARY
from mserve.runtime.simulator.worker import WorkerSpec, cost_profile

COPYING = """
strategy copying "whole requests, and a copy of the prompt for later"
pool workers
let here  = argmin(load(w) for w in workers)
let spare = argmin(load(w) for w in workers where w != here)
route copy {
  generate on here
  replicate prompt to spare
}
route alone { generate on here }
"""

POOLS = {
    "data_parallel": ("workers",),
    "least_loaded": ("workers",),
    "migration": ("workers",),
    "handoff": ("workers",),
    "copying": ("workers",),
    "prefill_decode": ("prefill", "decode"),
    "cache_aware": ("prefill", "decode"),
    "balanced": ("prefill", "decode"),
    "deflect": ("prefill", "decode"),
    "pipeline_prefill": ("prefill", "decode"),
}
SHORTER = {"handoff": {"first": 2}, "cache_aware": {"detour": 4}, "pipeline_prefill": {"long": 16}}
"""Params under which short prompts take the routes meant for long ones."""

FaultKind = Literal["kill", "freeze", "freeze_engine", "store"]


@dataclass(frozen=True)
class Arrival:
    """One request and its client, who may leave `cancel_s` after it came, and reads slowly."""

    at_s: float
    request: GenerationRequest
    prompt: tuple[int, ...]
    cancel_s: float | None
    read_s: float  # per piece
    is_poison: bool


@dataclass(frozen=True)
class Fault:
    at_s: float
    kind: FaultKind
    worker: str
    duration_s: float
    lose_in_flight: bool


@dataclass(frozen=True)
class Noise:
    """Probabilities, per message between workers."""

    repeated: float = 0.0
    delayed: float = 0.0
    lost: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.repeated or self.delayed or self.lost)


@dataclass(frozen=True)
class Scenario:
    seed: int
    strategy: str
    specs: tuple[WorkerSpec, ...]
    arrivals: tuple[Arrival, ...]
    faults: tuple[Fault, ...]
    noise: Noise
    latency_s: float
    transfer_latency_s: float
    bytes_per_s: float

    @property
    def is_calm(self) -> bool:
        """Nothing goes wrong: then no request may fail."""
        return not (self.faults or self.noise)


def draw(seed: int, strategy: str = "") -> Scenario:
    """The scenario of a seed, with its own strategy or another one."""
    rng = Random(seed)
    drawn = rng.choice(sorted(POOLS))
    strategy = strategy or drawn
    arrivals = _arrivals(rng)
    names = [
        f"{pool}-{index}" for pool in POOLS[strategy] for index in range(rng.choice((1, 2, 2, 3)))
    ]
    longest = max(len(a.prompt) + a.request.sampling.max_tokens for a in arrivals)
    cost = _cost(rng)
    specs = tuple(WorkerSpec(name, _engine(rng, longest), cost) for name in names)
    is_calm = rng.random() < 0.3
    return Scenario(
        seed=seed,
        strategy=strategy,
        specs=specs,
        arrivals=arrivals,
        faults=() if is_calm else _faults(rng, names),
        noise=Noise() if is_calm or rng.random() < 0.6 else _noise(rng),
        latency_s=rng.choice((1e-5, 2e-4, 2e-3)),
        transfer_latency_s=rng.choice((1e-6, 5e-5, 2e-3)),
        bytes_per_s=rng.choice((1e5, 1e7, 1e10)),
    )


def _engine(rng: Random, longest: int) -> EngineConfig:
    """From barely one request to plenty."""
    page_size = rng.choice((1, 4, 16))
    least = -(-longest // page_size)
    return EngineConfig(
        num_pages=least + rng.choice((0, 1, least // 2, 2 * least, 20 * least)),
        page_size=page_size,
        host_pages=rng.choice((0, 0, 2 * least)),
        max_model_len=longest,
        max_batch_tokens=rng.choice((16, 64, 2048)),
        chunk_tokens=rng.choice((3, 8, 32, 512)),
        max_running=rng.choice((2, 8, 64)),
        decode_headroom=rng.choice((1, 4, 16)),
        vocab_size=VOCABULARY,
    )


def _cost(rng: Random) -> CostProfile:
    return cost_profile(rng.choice((2e-5, 1e-3)), rng.choice((1e-3, 1e-2)))


def _arrivals(rng: Random) -> tuple[Arrival, ...]:
    longest = rng.choice((24, 60, 120))
    roots = [_tokens(rng, longest) for _ in range(rng.randint(1, 4))]
    span_s = rng.choice((0.0, 0.3, 1.5))
    leaves = rng.choice((0.0, 0.0, 0.3))
    slow = rng.choice((0.0, 0.0, 0.2))
    poison = rng.choice((0.0, 0.0, 0.0, 0.05))
    count = rng.choice((5, 5, 10, 10, 20, 40))
    return tuple(
        Arrival(
            at_s=rng.uniform(0.0, span_s),
            request=_request(rng, number, prompt),
            prompt=prompt,
            cancel_s=rng.expovariate(8.0) if rng.random() < leaves else None,
            read_s=rng.uniform(0.001, 0.1) if rng.random() < slow else 0.0,
            is_poison=rng.random() < poison,
        )
        for number in range(count)
        for prompt in [_prompt(rng, roots)]
    )


def _tokens(rng: Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(VOCABULARY) for _ in range(count))


def _prompt(rng: Random, roots: list[tuple[int, ...]]) -> tuple[int, ...]:
    """What several prompts begin with, then something of its own."""
    root = rng.choice(roots)
    shared = root[: rng.randint(0, len(root) - 1)]
    return shared + _tokens(rng, rng.randint(1, max(1, len(root) // 4)))


def _request(rng: Random, number: int, prompt: tuple[int, ...]) -> GenerationRequest:
    sampling = Sampling(
        max_tokens=rng.choice((1, 2, 5, 12, 24)),
        temperature=0.0,
        stop=(f" {rng.randrange(VOCABULARY)} {rng.randrange(10)}",) * (rng.random() < 0.1),
        stop_token_ids=_tokens(rng, rng.choice((0, 0, 0, 3))),
    )
    salt = rng.choice((b"", b"", b"tenant"))
    return GenerationRequest(f"r{number}", pack_tokens(prompt), sampling, Render(), salt)


def _faults(rng: Random, names: list[str]) -> tuple[Fault, ...]:
    kinds: tuple[FaultKind, ...] = ("kill", "kill", "freeze", "freeze_engine", "store")
    faults = [
        Fault(
            at_s=rng.uniform(0.0, rng.choice((0.1, 1.0, 3.0))),
            kind=rng.choice(kinds),
            worker=rng.choice(names),
            duration_s=rng.choice((rng.uniform(0.01, 0.5), rng.uniform(1.0, 8.0))),
            lose_in_flight=rng.random() < 0.5,
        )
        for _ in range(rng.choice((0, 1, 1, 2, 4)))
    ]
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _noise(rng: Random) -> Noise:
    return Noise(
        repeated=rng.choice((0.0, 0.02, 0.2)),
        delayed=rng.choice((0.0, 0.02, 0.2)),
        lost=rng.choice((0.0, 0.0, 0.0, 0.01)),
    )
