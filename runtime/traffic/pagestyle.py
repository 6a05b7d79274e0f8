"""How the page of a run looks: type and colours, for light and dark screens, narrow ones, and print.

Owns the colours and dashes of runs' lines, told apart by any colour vision and without colours.
"""

from collections.abc import Iterable, Sequence

from mserve.runtime.traffic.report import STATISTICS

# Okabe and Ito's colours, darker and lighter by the paper; dashes for print.
_LIGHT = ("#0072b2", "#d55e00", "#00795a", "#b0558b", "#7d5c00", "#3a3f44", "#2f8fc4", "#7a5195")
_DARK = ("#5fb0e8", "#ff8a4c", "#2fd3a2", "#f0a6cd", "#e6b422", "#c9d1d9", "#8fd3ff", "#b58ad6")
_DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "3 1.5", "6 2 2 2 2 2")
# Stops of a ramp, for runs that have an order: as far apart in light as in hue.
_LIGHT_RAMP = ("#c98500", "#d1495b", "#8e2a8b", "#1f1a78")
_DARK_RAMP = ("#ffe15c", "#f9905f", "#d8629f", "#6b66e8")
# Indexes of the colours of kinds of work: neighbours differ in light, hue and pattern.
_KINDS = {"prefill": 4, "decode": 6, "moves": 5}
EVERY = "every"  # the style of a line that stands for every run

_BASE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--dim:#57606a;--rule:#d0d7de;
--best:#dff3e4;--goal:#b35900;--card:#f6f8fa}
@media screen and (prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#e6edf3;--dim:#9aa4af;
--rule:#30363d;--best:#17492a;--goal:#f0a13c;--card:#161b22}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",Helvetica,Arial,sans-serif}
main{max-width:1280px;margin:0 auto;padding:24px 20px 60px}
h1{margin:0 0 4px;font-size:26px;line-height:1.3}
h1,p,dd,pre{overflow-wrap:anywhere}
h2{margin:36px 0 8px;font-size:19px}
h3{margin:16px 0 2px;font-size:15px}
p{margin:4px 0 12px;color:var(--dim)}
p.answer{font-size:17px;color:var(--ink);margin:12px 0}
code{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace}
pre{margin:4px 0 12px;padding:8px 12px;background:var(--card);white-space:pre-wrap}
.scroll{overflow-x:auto}
table{border-collapse:collapse;margin:0 0 16px;font-size:14px;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:4px 14px 4px 8px;border-bottom:1px solid var(--rule);
white-space:nowrap}
th{color:var(--dim);font-weight:600}
th[scope=row],.words{text-align:left}
td.words{white-space:normal}
td .margin{display:block;color:var(--dim);font-size:12px;font-weight:400;line-height:1.2}
.winner{font-weight:600}
summary{cursor:pointer;color:var(--dim)}
.facts th{vertical-align:top}
td.best{background:var(--best);font-weight:700;print-color-adjust:exact;
-webkit-print-color-adjust:exact}
.settings{display:flex;flex-wrap:wrap;gap:2px 24px;margin:8px 0 12px}
.settings div{display:flex;gap:6px;min-width:0}
.settings dt{color:var(--dim)}
.settings dd,.tiles dd{margin:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin:16px 0}
.tiles div{background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:10px 14px}
.tiles dt,.tiles .detail{color:var(--dim);font-size:14px}
.tiles .value{font-size:24px;font-weight:600;line-height:1.3;font-variant-numeric:tabular-nums}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(460px,100%),1fr));
gap:8px 32px}
.cards>section{min-width:0}
.others{display:flex;flex-wrap:wrap;gap:0 32px;align-content:flex-start}
.others:nth-child(odd){grid-column:1/-1}
.chart{display:block;width:100%;height:auto;overflow:visible}
.chart.sample{display:inline-block;width:30px;height:10px;margin-right:6px}
.legend span{margin-right:20px;white-space:nowrap;color:var(--ink)}
.chart text{font-size:13px;fill:var(--dim)}
.chart .label{fill:var(--goal);paint-order:stroke;stroke:var(--paper);stroke-width:4px}
.chart .grid{stroke:var(--rule);stroke-width:1}
.chart .mark{stroke:var(--goal);stroke-width:1.5;stroke-dasharray:5 4}
.chart .line{fill:none;stroke-width:2;stroke-linejoin:round}
.chart .line-every{stroke:var(--ink)}
.reading .ink-every{fill:var(--ink)}
.chart .name{fill:var(--ink)}
.chart .pool{fill:var(--ink);font-weight:600}
.chart .at-rest{pointer-events:none}
.reading:hover~.at-rest{visibility:hidden}
.reading .values{paint-order:stroke;stroke:var(--paper);stroke-width:4px}
.patterns{position:absolute}
.patterns .tint{fill:var(--kind);opacity:.3}
.patterns .hatch{fill:none;stroke:var(--kind);stroke-width:1.8}
.kind-prefill .tint,.kind-dead .tint{opacity:1}
.kind-moves .hatch{stroke-dasharray:1.5 2.5}
.kind-dead{--kind:var(--rule)}
.chart .dot{fill:var(--paper);stroke-width:2;stroke-dasharray:none}
.reading .band{fill:transparent}
.reading>:not(.band){visibility:hidden;pointer-events:none}
.reading:hover>:not(.band){visibility:visible}
.reading .cross{stroke:var(--dim);stroke-width:1}
.reading .box{fill:var(--paper);stroke:var(--rule)}
.chart .reading text{font-size:13px;font-variant-numeric:tabular-nums}
.reading .head{fill:var(--ink);font-weight:600}
@media (max-width:700px){main{padding:16px 12px 40px}h1{font-size:21px}
.chart>text{font-size:17px}table{font-size:13px}th,td{padding:3px 5px 3px 2px}
.chart.sample{width:18px;margin-right:4px}td .margin{font-size:11px}
th[scope=row]{position:sticky;left:0;background:var(--paper)}
.verdicts thead{display:none}.verdicts tr{display:block;padding:4px 0;
border-bottom:1px solid var(--rule)}.verdicts th{display:block}
.verdicts td{display:inline-block;padding:0 12px 0 0}.verdicts th,.verdicts td{border:0}}
@media print{body{font-size:12px}main{max-width:none;padding:0}h1{font-size:20px}
section,tr,pre,.tiles div{break-inside:avoid}h2,h3{break-after:avoid}h2{margin-top:18px}
.cards{grid-template-columns:1fr 1fr;gap:4px 20px}.reading{display:none}
table{font-size:10px}th,td{padding:2px 4px 2px 2px}td .margin{font-size:9px}
.chart.sample{width:18px;margin-right:4px}th[scope=row]{white-space:normal}}
"""


def page_style(num_runs: int, *, is_ordered: bool) -> str:
    """CSS. The lines of runs that have an order go from one colour to another."""
    styles = [*map(str, range(num_runs)), *STATISTICS]
    light = _colours(num_runs, _LIGHT, _LIGHT_RAMP if is_ordered else None)
    dark = _colours(num_runs, _DARK, _DARK_RAMP if is_ordered else None)
    dashes = [*_dashes(num_runs, is_ordered=is_ordered), *_DASHES[: len(STATISTICS)]]
    return "".join(
        [
            _BASE,
            *_coloured(styles, light),
            *_kinds(_LIGHT),
            "@media screen and (prefers-color-scheme:dark){\n",
            *_coloured(styles, dark),
            *_kinds(_DARK),
            "}\n",
            *(
                f".line-{style}:not(.dot){{stroke-dasharray:{dash}}}\n"
                for style, dash in zip(styles, dashes, strict=True)
            ),
        ]
    )


def _coloured(styles: Sequence[str], colours: Sequence[str]) -> Iterable[str]:
    for style, colour in zip(styles, colours, strict=True):
        yield f".line-{style}{{stroke:{colour}}}.reading .ink-{style}{{fill:{colour}}}\n"


def _kinds(colours: Sequence[str]) -> Iterable[str]:
    for kind, index in _KINDS.items():
        yield f".kind-{kind}{{--kind:{colours[index]}}}\n"


def _colours(num: int, cycle: Sequence[str], ramp: Sequence[str] | None) -> list[str]:
    """Of the runs, then of the statistics."""
    if ramp is not None:
        return [*_ramp(num, ramp), *cycle[: len(STATISTICS)]]
    return [*(cycle[index % len(cycle)] for index in range(num)), *cycle[: len(STATISTICS)]]


def _dashes(num: int, *, is_ordered: bool) -> list[str]:
    """Runs with the same colour have other dashes, so that 64 lines are told apart."""
    if is_ordered:
        return ["none"] * num
    return [_DASHES[(index + index // len(_LIGHT)) % len(_DASHES)] for index in range(num)]


def _ramp(num: int, stops: Sequence[str]) -> list[str]:
    """Colours from the first stop to the last, evenly apart, mixed of the two next to each."""
    colours = [[int(stop[at : at + 2], 16) for at in (1, 3, 5)] for stop in stops]
    places = [index / max(1, num - 1) * (len(stops) - 1) for index in range(num)]
    mixed = []
    for place in places:
        before = min(int(place), len(stops) - 2)
        pair = zip(colours[before], colours[before + 1], strict=True)
        mixed.append([round(a + (b - a) * (place - before)) for a, b in pair])
    return ["#" + "".join(f"{part:02x}" for part in colour) for colour in mixed]
