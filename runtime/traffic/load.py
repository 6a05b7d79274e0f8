"""A load test from end to end: find the model, fit the traffic to it, send it.

Owns what a test is made of and what must be said beside its figures. Knows no command line, and
nothing of how figures are shown.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mserve.runtime.clock import Clock
from mserve.runtime.errors import ConfigError
from mserve.runtime.traffic.answers import AnswerReader
from mserve.runtime.traffic.arrivals import Arrival
from mserve.runtime.traffic.client import Client, Server
from mserve.runtime.traffic.model import COMPLETIONS_PATH, ServedModel, Wanted, find_model
from mserve.runtime.traffic.prompts import fitted
from mserve.runtime.traffic.replay import LATE_S, Progress, Replay
from mserve.runtime.traffic.spec import TrafficOptions

TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """`seed` is of arrivals, `prompt_seed` of what stands in prompts. `concurrency` None: every
    request goes out at its time."""

    url: str
    traffic: TrafficOptions
    prompt_seed: int
    seed: int = 0
    concurrency: int | None = None
    scale: float = 1.0
    timeout_s: float = 600.0
    wanted: Wanted = field(default_factory=Wanted)
    api_key: str = field(default="", repr=False)


@dataclass(slots=True)
class LoadTest:
    """One test, which can be read at any time: what it found, and how far it is."""

    options: LoadOptions
    model: str = ""
    num_clipped: int = 0
    progress: Progress | None = None  # None until the first request is due

    async def run(self, clock: Clock, show: Callable[[Progress], None]) -> None:
        """Calls `show` every `TICK_S`. Raises ConfigError, with no traffic sent, where it cannot be.

        A cancellation leaves `progress` as it is by then.
        """
        options = self.options
        client = Client(Server.at(options.url), clock.now, options.api_key)
        try:
            model = await find_model(client, options.url, options.wanted)
            replay = self._replay(client, model, clock)
            timer = clock.every(TICK_S, lambda: show(replay.progress))
            try:
                await _play(replay, options.concurrency)
            finally:
                timer.cancel()
        finally:
            client.close()

    def _replay(self, client: Client, model: ServedModel, clock: Clock) -> Replay:
        options = self.options
        found = fitted(options.traffic.arrivals(options.seed), options.scale, model.context)
        if not found.arrivals:
            raise ConfigError("No request arrives within --duration: make it longer.")
        requests = PromptRequests(client, model, options.prompt_seed)
        replay = Replay(requests, clock, found.arrivals, options.timeout_s)
        self.model, self.num_clipped = model.name, found.num_clipped
        self.progress = replay.progress
        return replay

    def notes(self, *, is_interrupted: bool = False) -> Iterator[str]:
        """What one must know to believe the figures, in sentences."""
        progress = self.progress
        assert progress is not None, "A test that did not begin has no figures."
        if is_interrupted:
            unsent = progress.num_arrivals - progress.num_sent
            yield (
                f"Interrupted: {progress.num_running} requests were under way and {unsent} were"
                " not sent; figures are of those that had ended."
            )
        if progress.num_late:
            yield (
                f"This client was too slow: {progress.num_late} requests went out more than"
                f" {LATE_S * 1e3:.0f} ms late (up to {progress.max_lag_s * 1e3:,.0f} ms, which"
                " their times include)."
            )
        if self.num_clipped:
            yield (
                f"{self.num_clipped} requests were longer than the model's context and were cut"
                " to it."
            )
        if progress.num_short:
            yield (
                f"{progress.num_short} answers ended before the length that the traffic gives them."
            )
        for kind, words in progress.examples.items():
            yield f"{kind}: {words}"


async def _play(replay: Replay, concurrency: int | None) -> None:
    if concurrency is None:
        await replay.open_loop()
    else:
        await replay.closed_loop(concurrency)


@dataclass(frozen=True, slots=True)
class PromptRequests:
    """Prompts made up for a model. Implements `Requests` of the replay."""

    client: Client
    model: ServedModel
    seed: int

    def body(self, arrival: Arrival) -> bytes:
        return self.model.request(arrival, self.seed)

    async def send(self, body: bytes, reader: AnswerReader) -> None:
        await self.client.post(COMPLETIONS_PATH, body, reader)
