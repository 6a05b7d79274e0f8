"""A plan as a Mermaid sequence diagram: workers are participants, arrows are KV on its way.

Routes over symbols become the alternatives of one diagram, as they are tried.
"""

import re
from collections.abc import Iterator

from mserve.compiler.plan import PrepRecv, StartGenerate
from mserve.compiler.views.quantities import duration
from mserve.compiler.views.scene import Act, Scene, scenes_of, situation_words
from mserve.compiler.views.subject import Subject

_ROUTER = "router"
_SPECIAL = re.compile(r"[^\w ,.()\[\]/*+=!?-]")


def draw_mermaid(subject: Subject) -> str:
    scenes = scenes_of(subject)
    largest_first = sorted(scenes, key=lambda scene: -len(scene.lanes))
    workers = dict.fromkeys(lane for scene in largest_first for lane in scene.lanes)
    names = {worker: f"w{number}" for number, worker in enumerate(workers)}
    lines = ["sequenceDiagram", f"  title {_escape(subject.strategy.name)}"]
    lines += [f"  participant {name} as {_escape(worker)}" for worker, name in names.items()]
    lines.append(f"  participant {_ROUTER}")
    everyone = f"w0,{_ROUTER}" if names else _ROUTER
    lines.append(f"  Note over {everyone}: {_escape(_headline(subject, scenes))}")
    if subject.decided is not None:
        lines += [f"  {line}" for scene in scenes for line in _scene(scene, names)]
    else:
        lines += _alternatives(scenes, names)
    return "\n".join(lines) + "\n"


def _headline(subject: Subject, scenes: tuple[Scene, ...]) -> str:
    """For a note: Mermaid cuts long titles off."""
    if subject.decided is None:
        return subject.strategy.description or subject.strategy.name
    return scenes[0].title if scenes else situation_words(subject)


def _alternatives(scenes: tuple[Scene, ...], names: dict[str, str]) -> Iterator[str]:
    for number, scene in enumerate(scenes):
        word = "else" if number else "alt"
        yield f"  {word} {_escape(f'{scene.title}, {scene.subtitle}')}"
        yield from (f"    {line}" for line in _scene(scene, names))
    yield "  end"


def _scene(scene: Scene, names: dict[str, str]) -> Iterator[str]:
    """Steps in the plan's order: receiving is told by the arrow that comes from the sender."""
    for act in scene.in_order():
        if isinstance(act.step, PrepRecv):
            continue
        worker = names[scene.lanes[act.lane]]
        yield f"Note over {worker}: {_escape(_words(scene, act))}"
        for move in scene.moves:
            if move.source == act.step.id:
                target = scene.act(move.target)
                amount = _escape(f"{move.target} {move.ticket}, KV of {move.amount}")
                yield f"{worker}->>{names[scene.lanes[target.lane]]}: {amount}"
        if isinstance(act.step, StartGenerate):
            yield f"{worker}-->>{_ROUTER}: {_escape(_answer(scene, act))}"


def _words(scene: Scene, act: Act) -> str:
    words = f"{act.step.id} {act.phrase}"
    if not scene.is_timed:
        return words
    return f"{words}, {duration(act.span.begin)} to {duration(act.span.end)}"


def _answer(scene: Scene, act: Act) -> str:
    if not scene.is_timed:
        return "tokens"
    return f"tokens from {duration(act.span.middle)} on"


def _escape(text: str) -> str:
    """Everything that could mean something to Mermaid as the entity codes it knows."""
    return _SPECIAL.sub(lambda found: f"#{ord(found[0])};", " ".join(text.split()))
