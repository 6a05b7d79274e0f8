"""A plan as JSON for programs."""

import json
from dataclasses import asdict

from mserve.compiler.describe import StrategyPlan, SymbolicRoute
from mserve.compiler.views.subject import Chosen, Decided, Subject


def write_json(subject: Subject) -> str:
    if subject.decided is None:
        data = _strategy_data(subject.strategy)
    else:
        data = _decision_data(subject.strategy.name, subject.decided)
    return json.dumps(data, indent=2) + "\n"


def _strategy_data(plan: StrategyPlan) -> dict[str, object]:
    return {
        "strategy": plan.name,
        "description": plan.description,
        "params": [
            dict(zip(("name", "default", "low", "high"), p, strict=True)) for p in plan.params
        ],
        "pools": [
            {"name": name, "workers": workers, "settings": list(plan.settings[name])}
            for name, workers in plan.pools
        ],
        "others": [{"kind": kind, "text": text} for kind, text in plan.others],
        "bindings": [{"name": name, "value": text} for name, text in plan.bindings],
        "routes": [_route_data(route) for route in plan.routes],
    }


def _route_data(route: SymbolicRoute) -> dict[str, object]:
    labels = route.labels
    steps = []
    for step in route.plan().steps:
        data = {**asdict(step), "worker": labels.worker(step.worker)}
        for bound in ("begin", "end"):
            if bound in data:
                data[bound] = labels.position(data[bound])
        steps.append(data)
    return {"name": route.name, "when": route.guard, "steps": steps}


def _decision_data(strategy: str, decided: Decided) -> dict[str, object]:
    cluster, chosen = decided.situation.cluster, decided.chosen
    return {
        "strategy": strategy,
        "profile": cluster.profile.name,
        "num_tokens": cluster.num_tokens,
        "bindings": dict(decided.bindings),
        "adapted": dict(decided.adapted_to),
        "guards": [
            {"route": tried.route, "holds": tried.holds, "because": tried.why}
            for tried in decided.routes
            if tried.outcome != "not tried"
        ],
        "plan": None if chosen is None else asdict(chosen.plan),
        "timeline": None if chosen is None else _timeline_data(chosen),
    }


def _timeline_data(chosen: Chosen) -> dict[str, object]:
    return {**asdict(chosen.timeline), "critical": chosen.critical}
