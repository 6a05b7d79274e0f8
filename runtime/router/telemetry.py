"""What the router counts, and how a finished plan changes it."""

from mserve.compiler.observe import Decider
from mserve.runtime.cluster.view import PromptsView
from mserve.runtime.metrics import Metrics
from mserve.runtime.router.admission import Admission
from mserve.runtime.router.fleet import Fleet
from mserve.runtime.router.plans import PlanRecord
from mserve.runtime.router.reservations import Reservations


class RouterMetrics:
    """The router's instruments; every name begins with `mserve_router_`."""

    def __init__(
        self,
        fleet: Fleet,
        reservations: Reservations,
        admission: Admission,
        strategy: Decider,
    ) -> None:
        self._fleet = fleet
        self._strategy = strategy
        self._reservations = reservations
        metrics = self.metrics = Metrics()
        self._requests = metrics.counter(
            "mserve_router_requests_total", "Requests by route and outcome.", "route", "state"
        )
        self._retries = metrics.counter(
            "mserve_router_replans_total", "Plans made anew after a failure."
        )
        self._prompt_tokens = metrics.counter(
            "mserve_router_prompt_tokens_total", "Prompt tokens of answered requests."
        )
        self._cached_tokens = metrics.counter(
            "mserve_router_cached_tokens_total",
            "Prompt tokens of answered requests that were cached: available (on some worker), routed "
            "(on a worker of the plan), delivered (no engine computed them).",
            "kind",
        )
        self._output_tokens = metrics.counter(
            "mserve_router_output_tokens_total", "Tokens of finished answers."
        )
        self._ttft = metrics.histogram(
            "mserve_router_time_to_first_token_seconds", "From request to first token."
        )
        self._goals = metrics.counter(
            "mserve_router_slo_total",
            "Answers by goal of the strategy's `slo` (ttft, tpot, all), and whether it was met.",
            "goal",
            "met",
        )
        self._duration = metrics.histogram(
            "mserve_router_request_seconds", "From request to the end of the plan."
        )
        self._rejected = metrics.counter(
            "mserve_router_errors_total", "Requests answered with an error, by status.", "status"
        )
        metrics.gauge(
            "mserve_router_open_requests",
            "Requests under way.",
            read=lambda: {(): admission.num_open},
        )
        metrics.gauge(
            "mserve_router_strategy",
            "The strategy that is served now, and how many have been put in its place before.",
            "name",
            "version",
            read=lambda: {(strategy.name, str(strategy.version)): 1},
        )
        metrics.gauge("mserve_router_workers", "Live workers by pool.", "pool", read=self._workers)
        metrics.gauge(
            "mserve_router_reserved_seconds",
            "Estimated work sent and not done, by worker.",
            "worker",
            read=self._reserved,
        )

    def ended(self, record: PlanRecord) -> None:
        route = record.attempts[-1].decision.plan.route if record.attempts else ""
        self._requests.add(1, route, record.state.value)
        self._retries.add(max(0, record.num_attempts - 1))
        if record.first_token_s is not None:
            self._ttft.observe(record.first_token_s - record.started_s)
        if record.ended_s is not None:
            self._duration.observe(record.ended_s - record.started_s)
        if record.finish is not None:
            self._prompt_tokens.add(record.finish.prompt_tokens)
            self._cached_tokens.add(record.cached.available, "available")
            self._cached_tokens.add(record.cached.routed, "routed")
            self._cached_tokens.add(record.finish.cached_tokens, "delivered")
            self._output_tokens.add(record.finish.completion_tokens)
            self._judge(record, record.finish.completion_tokens)

    def _judge(self, record: PlanRecord, num_tokens: int) -> None:
        """Counts a finished answer by goal; its goodput is those of `all` that are met."""
        slo, first_s, ended_s = self._strategy.slo, record.first_token_s, record.ended_s
        if first_s is None or ended_s is None:
            return
        met: dict[str, bool] = {}
        if slo.ttft_s is not None:
            met["ttft"] = first_s - record.started_s <= slo.ttft_s
        if slo.tpot_s is not None:
            met["tpot"] = ended_s - first_s <= slo.tpot_s * (num_tokens - 1)
        if met:
            met["all"] = all(met.values())
        for goal, is_met in met.items():
            self._goals.add(1, goal, "yes" if is_met else "no")

    def prompts(self) -> PromptsView:
        """What became of all answered requests' prompts."""
        kinds = ("available", "routed", "delivered")
        counts = (round(self._cached_tokens.value(kind)) for kind in kinds)
        return PromptsView(round(self._prompt_tokens.value()), *counts)

    def failed(self, status: int) -> None:
        self._rejected.add(1, str(status))

    def _workers(self) -> dict[tuple[str, ...], float]:
        return {(pool,): len(names) for pool, names in self._fleet.snapshot.pools.items()}

    def _reserved(self) -> dict[tuple[str, ...], float]:
        loads = self._reservations.loads()
        return {(worker,): load.seconds for worker, load in loads.items()}
