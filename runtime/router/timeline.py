"""Draws what became of a plan as text: a lane per worker, a bar per step, times, tokens and bytes.

Works on the JSON of `GET /v1/plans/{id}` alone, so that a command can draw what a router tells it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

BAR_WIDTH = 40
_FILLED, _WAITING, _EMPTY = "█", "░", " "
_COUNTS = ("matched", "computed", "received", "sent", "generated")
_OPS = {"prep_recv": "receive", "remote_send": "send", "start_generate": "generate"}

Json = Mapping[str, Any]


def render_timeline(plan: Json, *, bar_width: int = BAR_WIDTH) -> str:
    """Several lines of text, without a trailing line break.

    A bar begins where the step's work began; a light one is a wait for another worker's KV.
    """
    total_ms = max(_end_ms(plan), 0.001)
    lines = [_headline(plan, total_ms)]
    for attempt in plan["attempts"]:
        lines.append(_attempt_line(attempt, plan["num_attempts"]))
        lines += _guards(attempt)
        lines += _forecasts(attempt)
        lines += _choices(attempt)
        lines += _lanes(attempt, total_ms, bar_width)
    if plan["error"]:
        lines.append(f"error: {plan['error']}")
    return "\n".join(lines)


def _end_ms(plan: Json) -> float:
    ends = [
        step["end_ms"] or 0.0
        for attempt in plan["attempts"]
        for step in attempt["steps"]
        if step["end_ms"]
    ]
    return max([plan["ended_ms"] or 0.0, *ends])


def _headline(plan: Json, total_ms: float) -> str:
    parts = [f"plan {plan['id']}: {plan['state']}, {plan['prompt_tokens']} prompt tokens"]
    usage = plan["usage"]
    if usage is not None:
        parts.append(f"{usage['cached_tokens']} of them cached")
        parts.append(f"{usage['completion_tokens']} generated")
    if plan["first_token_ms"] is not None:
        parts.append(f"first token after {plan['first_token_ms']:.1f} ms")
    parts.append(f"all in {total_ms:.1f} ms")
    return ", ".join(parts)


def _attempt_line(attempt: Json, count: int) -> str:
    which = f"attempt {attempt['number']} of {count}, " if count > 1 else ""
    bindings = ", ".join(f"{name} = {_value(value)}" for name, value in attempt["bindings"].items())
    decided = f" ({bindings})" if bindings else ""
    return f"{which}strategy {attempt['strategy']}, route {attempt['route']}{decided}"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "missing" if value is None else str(value)


def _guards(attempt: Json) -> Iterator[str]:
    """Routes that were passed over before the one that was taken."""
    for route, held in attempt.get("guards", ())[:-1]:
        why = "something it needs is missing" if held is None else "its guard does not hold"
        yield f"  route {route} passed over: {why}"


def _forecasts(attempt: Json) -> Iterator[str]:
    """What the routes were expected to take, the one that was taken first."""
    times_s = attempt.get("forecasts_s", {})
    if times_s:
        ordered = sorted(times_s, key=lambda route: route != attempt["route"])
        said = ", ".join(f"{route} {_time(times_s[route])}" for route in ordered)
        yield f"  time to first token predicted for {said}"


def _time(time_s: float | None) -> str:
    return "impossible" if time_s is None else f"{time_s * 1e3:.1f} ms"


def _choices(attempt: Json) -> Iterator[str]:
    """What each choice compared: the chosen worker first, with the summands of its value."""
    for choice in attempt.get("choices", ()):
        of = f"{choice['let']} = " if choice["let"] else ""
        yield f"  {of}{choice['expression']}"
        width = max(len(each["worker"]) for each in choice["candidates"])
        for each in choice["candidates"]:
            terms = " + ".join(f"{_cost(value)}" for value in each["terms"].values())
            sum_ = f" = {terms}" if len(each["terms"]) > 1 else ""
            yield f"    {each['worker']:<{width}}  {_cost(each['value'])}{sum_}"
        left_out = choice["num_candidates"] - len(choice["candidates"])
        if left_out:
            yield f"    and {left_out} more"


def _cost(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.4g}"


def _lanes(attempt: Json, total_ms: float, bar_width: int) -> Iterator[str]:
    steps = attempt["steps"]
    name_width = max((len(step["worker"]) for step in steps), default=0)
    label_width = max((len(_label(step)) for step in steps), default=0)
    previous = ""
    for step in sorted(steps, key=lambda step: step["worker"]):
        lane = step["worker"] if step["worker"] != previous else ""
        previous = step["worker"]
        bar = _bar(step, total_ms, bar_width)
        yield f"  {lane:<{name_width}}  {_label(step):<{label_width}} |{bar}| {_facts(step)}".rstrip()


def _label(step: Json) -> str:
    return f"{step['id']} {_OPS.get(step['op'], step['op'])}"


def _bar(step: Json, total_ms: float, width: int) -> str:
    start, end = step["start_ms"], step["end_ms"]
    if start is None:
        return _EMPTY * width
    first = min(width - 1, max(0, int(start / total_ms * width)))
    last = width if end is None else max(first + 1, round(end / total_ms * width))
    cell = _WAITING if step["op"] == "prep_recv" else _FILLED
    return (_EMPTY * first + cell * (min(last, width) - first)).ljust(width)


def _facts(step: Json) -> str:
    if step["start_ms"] is None:
        return _state(step)
    end = "..." if step["end_ms"] is None else f"{step['end_ms']:.1f}"
    counts = [f"{name} {step[name]}" for name in _COUNTS if step[name]]
    num_bytes = step["sent_bytes"] or step["received_bytes"]
    if num_bytes:
        counts.append(format_bytes(num_bytes))
    state = "" if step["state"] == "done" else f" {_state(step)}"
    return f"{step['start_ms']:.1f}-{end} ms  {', '.join(counts)}{state}"


def _state(step: Json) -> str:
    return f"{step['state']}: {step['error']}" if step["error"] else str(step["state"])


def format_bytes(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"
