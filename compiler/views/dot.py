"""A plan as a Graphviz digraph: a cluster per worker, an edge for everything a step waits for."""

from collections.abc import Iterator

from mserve.compiler.plan import FIRST_TOKEN, RemoteSend, StartGenerate
from mserve.compiler.views.quantities import duration
from mserve.compiler.views.scene import Act, Move, Scene, scenes_of, situation_words
from mserve.compiler.views.subject import Subject

_HEAD = """\
  rankdir=LR;
  graph [fontname="Helvetica", labeljust=l];
  node [shape=box, fontname="Helvetica"];
  edge [fontname="Helvetica"];"""


def draw_dot(subject: Subject) -> str:
    scenes = scenes_of(subject)
    lines = [f"digraph {_quote(subject.strategy.name)} {{", _HEAD]
    if not scenes:
        lines.append(f"  nowhere [label={_quote(situation_words(subject))}];")
    for number, scene in enumerate(scenes):
        lines.append(f"  subgraph cluster_r{number} {{")
        lines.append(f"    label={_quote(scene.title, scene.subtitle, *_notes(scene))};")
        lines += [f"    {line}" for line in _scene(scene, f"r{number}_")]
        lines.append("  }")
    return "\n".join([*lines, "}"]) + "\n"


def _notes(scene: Scene) -> Iterator[str]:
    if any(act.is_critical for act in scene.acts):
        yield "heavy lines: the critical path, what the first token waits for"


def _scene(scene: Scene, prefix: str) -> Iterator[str]:
    for number, worker in enumerate(scene.lanes):
        yield f"subgraph cluster_{prefix}w{number} {{"
        yield f"  label={_quote(worker)};"
        for act in scene.acts:
            if act.lane == number:
                yield f"  {_node(scene, act, prefix)}"
        yield "}"
    for move in scene.moves:
        yield from _move(scene, move, prefix)
    for act in scene.in_order():
        yield from _waits(act, prefix)


def _node(scene: Scene, act: Act, prefix: str) -> str:
    lines = [f"{act.step.id} {act.step.op}", act.phrase]
    if scene.is_timed:
        lines.append(f"{duration(act.span.begin)} to {duration(act.span.end)}")
    looks = ", penwidth=3" if act.is_critical else ""
    tooltip = _quote(*map(str, act.lines))
    return f"{prefix}{act.step.id} [label={_quote(*lines)}, tooltip={tooltip}{looks}];"


def _move(scene: Scene, move: Move, prefix: str) -> Iterator[str]:
    """The KV goes to the receiving step, and from there to those that use it."""
    looks = ", penwidth=3" if move.is_critical else ""
    label = _quote(f"{move.ticket}: KV of {move.amount}")
    yield f"{prefix}{move.source} -> {prefix}{move.target} [label={label}{looks}];"
    for act in scene.in_order():
        step = act.step
        if isinstance(step, (RemoteSend, StartGenerate)) and move.ticket in step.uses:
            yield f"{prefix}{move.target} -> {prefix}{step.id} [label={_quote(f'uses {move.ticket}')}];"


def _waits(act: Act, prefix: str) -> Iterator[str]:
    for name in act.step.after:
        before = name.removesuffix(FIRST_TOKEN)
        label = "after its first token" if name != before else "after"
        yield f"{prefix}{before} -> {prefix}{act.step.id} [style=dashed, label={_quote(label)}];"


def _quote(*lines: str) -> str:
    """A quoted string, in which a backslash or a quote could not end it or mean anything."""
    return '"' + "\\n".join(_escape(" ".join(line.split())) for line in lines) + '"'


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
