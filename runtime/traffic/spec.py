"""Traffic as an operator writes it: a trace's path, or a generator's name with its settings.

poisson:rate=5.6,input=3000,output=100,num=2000
preble-toolbench:rate=4,num=1000,zipf=1.1
mix:rate=10,num=5000,long=8192
traces/conversation.jsonl
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from mserve.runtime.traffic.arrivals import BLOCK_TOKENS, Arrival, TrafficError, scaled
from mserve.runtime.traffic.refusals import refused
from mserve.runtime.traffic.suggestions import meant, near_miss
from mserve.runtime.traffic.traces import ReadOptions, read_trace
from mserve.runtime.traffic.workloads import PREBLE, long_and_short, poisson, sharing

S = TypeVar("S", bound="_Settings")

Positive = Annotated[float, Meta(gt=0, le=1_000_000)]
PositiveCount = Annotated[int, Meta(ge=1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class _Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    rate: Positive  # requests/s
    num: PositiveCount = 1000
    seed: int = 0
    cv: Annotated[float, Meta(ge=0, le=100)] = 1.0  # of the gaps between arrivals; 1 is Poisson
    block: PositiveCount = BLOCK_TOKENS


class _Poisson(_Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    num_prompt: PositiveCount = field(name="input")
    num_output: PositiveCount = field(name="output")

    def arrivals(self, name: str) -> Iterator[Arrival]:
        return poisson(
            rate=self.rate,
            num_prompt=self.num_prompt,
            num_output=self.num_output,
            num=self.num,
            seed=self.seed,
            variation=self.cv,
            block_tokens=self.block,
        )


class _Mix(_Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    share: Fraction = 0.05  # of long prompts
    num_long: PositiveCount = field(name="long", default=8192)
    num_short: PositiveCount = field(name="short", default=512)
    num_output: PositiveCount = field(name="output", default=128)

    def arrivals(self, name: str) -> Iterator[Arrival]:
        return long_and_short(
            rate=self.rate,
            num=self.num,
            seed=self.seed,
            share_long=self.share,
            num_long=self.num_long,
            num_short=self.num_short,
            num_output=self.num_output,
            variation=self.cv,
            block_tokens=self.block,
        )


class _Preble(_Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    zipf: Positive | None = None

    def arrivals(self, name: str) -> Iterator[Arrival]:
        return sharing(
            PREBLE[name.removeprefix(_PREBLE_PREFIX)],
            rate=self.rate,
            num=self.num,
            seed=self.seed,
            zipf=self.zipf,
            variation=self.cv,
            block_tokens=self.block,
        )


_PREBLE_PREFIX = "preble-"
_Generator = _Poisson | _Mix | _Preble

GENERATORS: Mapping[str, type[_Generator]] = {
    "poisson": _Poisson,
    "mix": _Mix,
    **{_PREBLE_PREFIX + name: _Preble for name in PREBLE},
}


def traffic(
    text: str, options: ReadOptions | None = None, seed: int | None = None
) -> Iterator[Arrival]:
    """The arrivals that `text` describes (see this module's beginning). Raises TrafficError.

    `seed` is for a text that does not give its own.
    """
    name = text.partition(":")[0]
    if name in GENERATORS:
        return _settings(text, seed).arrivals(name)
    path = Path(text).expanduser()
    if path.exists() or path.suffix or len(path.parts) > 1:
        return read_trace(path, options=options)
    if near := near_miss(name, GENERATORS):
        raise TrafficError(f"There is no traffic {name!r}; did you mean {near!r}?")
    raise TrafficError(
        f"Traffic is a trace's path or one of {', '.join(GENERATORS)}, with settings as in"
        f" `poisson:rate=2,input=1000,output=100`; {text!r} is neither."
    )


@dataclass(frozen=True, slots=True)
class TrafficOptions:
    """Which traffic, how fast and how much of it; as `scaled` has them."""

    trace: str  # a path, or a generator with its settings
    rate: float | None = None  # requests/s
    speed: float = 1.0
    limit: int | None = None
    duration_s: float | None = None

    @property
    def most_requests(self) -> int | None:
        """As far as that is known without reading a trace. Raises TrafficError."""
        is_made_up = self.trace.partition(":")[0] in GENERATORS
        bounds = (_settings(self.trace).num if is_made_up else None, self.limit)
        return min((each for each in bounds if each is not None), default=None)

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """Raises TrafficError."""
        return scaled(
            traffic(self.trace, ReadOptions(seed=seed), seed),
            rate=self.rate,
            speed=self.speed,
            limit=self.limit,
            duration_s=self.duration_s,
        )


def _settings(text: str, seed: int | None = None) -> _Generator:
    name, _, settings = text.partition(":")
    given = _pairs(name, settings)
    if seed is not None:
        given.setdefault("seed", str(seed))
    return _converted(name, given)


def _pairs(name: str, settings: str) -> dict[str, str]:
    known = [field.encode_name for field in msgspec.structs.fields(GENERATORS[name])]
    given: dict[str, str] = {}
    for setting in filter(None, settings.split(",")):
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or not value:
            raise TrafficError(f"Settings of {name} are KEY=VALUE, not {setting!r}.")
        if key not in known:
            raise TrafficError(f"{name} has no setting {key!r}; {meant(key, known, 'it has')}")
        if key in given:
            raise TrafficError(f"{name} is given {key!r} twice: leave one out.")
        given[key] = value
    return given


def _converted(name: str, given: Mapping[str, str]) -> _Generator:
    try:
        return msgspec.convert(given, GENERATORS[name], strict=False)
    except msgspec.ValidationError as error:
        problem = refused(error, given)
        key, is_missing, _ = problem.partition(" is missing")
        hint = f": add {key}=... to its settings" if is_missing else ""
        raise TrafficError(f"{name}: {problem}{hint}.") from None
