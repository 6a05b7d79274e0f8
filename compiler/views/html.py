"""A plan as one self-contained page: the decision table, the strategy's text with the lines of the
routes taken, the drawing and a table of its steps. Nothing is loaded from anywhere.
"""

from collections.abc import Iterator

from mserve.compiler.plan import FIRST_TOKEN
from mserve.compiler.views.pagestyle import STYLE
from mserve.compiler.views.quantities import duration
from mserve.compiler.views.scene import (
    Act,
    Scene,
    given_words,
    scenes_of,
    situation_words,
)
from mserve.compiler.views.subject import Decided, Subject, Tried
from mserve.compiler.views.svg import draw_svg
from mserve.compiler.views.xml import clean, element


def write_html(subject: Subject) -> str:
    name, scenes = subject.strategy.name, scenes_of(subject)
    sections = [
        element("h1", clean(name)),
        element("p", clean(subject.strategy.description)),
        *_decision(subject),
        element("h2", "Plan"),
        element("div", draw_svg(subject, has_headline=False), class_="drawing"),
        *[part for scene in scenes for part in _steps(scene)],
        element("h2", "Strategy"),
        _source(subject),
    ]
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{clean(name)}: plan</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _table(heads: tuple[str, ...], rows: Iterator[str]) -> str:
    head = element("tr", *[element("th", clean(words), scope="col") for words in heads])
    table = element("table", element("thead", head), element("tbody", *rows))
    return element("div", table, class_="scroll")


def _row(*cells: str, class_: str | None = None) -> str:
    return element("tr", *[element("td", cell) for cell in cells], class_=class_)


def _code(text: str) -> str:
    return element("code", clean(text))


# --- the decision table ------------------------------------------------------------------------


def _decision(subject: Subject) -> Iterator[str]:
    decided = subject.decided
    yield element("h2", "Decision")
    if decided is not None:
        yield element("p", clean(f"For {situation_words(subject)}; {given_words(decided)}."))
    if subject.strategy.params:
        yield _table(("param", "value", "range"), _params(subject))
    if subject.strategy.bindings:
        heads = ("binding", "is defined as", *(() if decided is None else ("value",)))
        yield _table(heads, _bindings(subject))
    heads = ("route", "guard", *(() if decided is None else ("outcome", "because", "predicted")))
    yield _table(heads, _routes(subject))


def _params(subject: Subject) -> Iterator[str]:
    given = {} if subject.decided is None else subject.decided.params
    for name, default, low, high in subject.strategy.params:
        yield _row(_code(name), _code(given.get(name, default)), clean(f"{low} to {high}"))


def _bindings(subject: Subject) -> Iterator[str]:
    for name, text in subject.strategy.bindings:
        cells = [_code(name), _code(text)]
        if subject.decided is not None:
            cells.append(_value(subject.decided, name))
        yield _row(*cells)


def _value(decided: Decided, name: str) -> str:
    if name not in decided.bindings:
        return "not needed"
    return _code(decided.spelled[name])


def _routes(subject: Subject) -> Iterator[str]:
    """In the order in which they are tried."""
    decided = subject.decided
    for number, route in enumerate(subject.strategy.routes):
        guard = "otherwise" if route.guard is None else f"when {_code(route.guard)}"
        cells = [_code(route.name), guard]
        if decided is None:
            yield _row(*cells)
            continue
        tried = decided.routes[number]
        cells += [clean(tried.outcome), _because(tried), _forecast(decided, route.name)]
        yield _row(*cells, class_="taken" if tried.holds else None)


def _because(tried: Tried) -> str:
    """The guard stands beside it: the values that its only comparison had are enough."""
    if len(tried.reasons) == 1 and tried.reasons[0].values:
        outcome = "" if tried.holds else " does not hold"
        return _code(tried.reasons[0].values) + outcome
    return "<br>".join([clean(str(reason)) for reason in tried.reasons]) or clean(tried.remark)


def _forecast(decided: Decided, route: str) -> str:
    """The first token of a route: predicted for a guard, or of the plan made of it."""
    time_s = decided.forecasts.get(route)
    if time_s is None and decided.chosen is not None and decided.chosen.plan.route == route:
        time_s = decided.chosen.timeline.first_token_s
    return "" if time_s is None else clean(f"first token {duration(time_s)}")


# --- steps and source --------------------------------------------------------------------------


def _steps(scene: Scene) -> Iterator[str]:
    yield element("h3", clean(f"Steps of route {scene.name}"))
    if not scene.is_timed:
        yield element("p", clean(scene.subtitle))
    heads = ("step", "worker", "call", "does", "waits for", "written as")
    times = ("begins", "ends") if scene.is_timed else ()
    yield _table((*heads, *times), (_step(scene, act) for act in scene.in_order()))


def _step(scene: Scene, act: Act) -> str:
    step = act.step
    waits = "; ".join([*_received(scene, act), *map(_after, step.after)])
    lines = "<br>".join(
        element("a", _code(line.text), href=f"#line-{line.number}") for line in act.lines
    )
    worker = clean(scene.lanes[act.lane])
    cells = [clean(step.id), worker, _code(step.op), clean(act.phrase), clean(waits), lines]
    if scene.is_timed:
        cells += [_time(act.span.begin), _time(act.span.end)]
    return _row(*cells, class_="critical" if act.is_critical else None)


def _received(scene: Scene, act: Act) -> Iterator[str]:
    """The KV that a step uses, by the step that sends it."""
    sources = {move.ticket: move.source for move in scene.moves}
    for ticket in getattr(act.step, "uses", ()):
        yield f"KV from {sources[ticket]}"


def _after(name: str) -> str:
    step = name.removesuffix(FIRST_TOKEN)
    return f"end of {step}" if step == name else f"first token of {step}"


def _time(seconds: float) -> str:
    return element("span", clean(duration(seconds)), class_="time")


def _source(subject: Subject) -> str:
    marked, steps = _taken_lines(subject)
    rows = []
    for number in range(1, subject.source.num_lines + 1):
        text = subject.source.line(number)
        if number == subject.source.num_lines and not text:
            break
        class_ = "step" if number in steps else "taken" if number in marked else None
        label = element("span", str(number), class_="number")
        code = element("code", clean(text) or " ")
        rows.append(element("li", label, code, class_=class_, id=f"line-{number}"))
    caption = element("p", clean(subject.source.path))
    return caption + element("ol", *rows, class_="source")


def _taken_lines(subject: Subject) -> tuple[range, frozenset[int]]:
    """The lines of the route taken, and those of them that its plan's steps come from."""
    scenes = scenes_of(subject)
    if subject.decided is None or not scenes:
        return range(0), frozenset()
    span = next(r.span for r in subject.tree.routes if r.name == scenes[0].name)
    first = subject.source.position(span.start).line
    last = subject.source.position(span.end).line
    steps = frozenset(line.number for act in scenes[0].acts for line in act.lines)
    return range(first, last + 1), steps
