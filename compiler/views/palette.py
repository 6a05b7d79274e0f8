"""Colours, patterns and type of drawn plans, for light and dark screens and for print."""

_LIGHT = {
    "paper": "#ffffff",
    "ink": "#1f2328",
    "dim": "#57606a",
    "band": "#f6f8fa",
    "rule": "#d0d7de",
    "compute": "#2f6fd0",
    "generate": "#bfe5c8",
    "generate-line": "#1a7f37",
    "receive": "#ffe2b8",
    "receive-line": "#b35900",
    "send": "#dce8fb",
    "busy-line": "#8c959f",
}
_DARK = {
    "paper": "#0d1117",
    "ink": "#e6edf3",
    "dim": "#9aa4af",
    "band": "#161b22",
    "rule": "#30363d",
    "compute": "#4c8dea",
    "generate": "#12391f",
    "generate-line": "#56d364",
    "receive": "#4a2d05",
    "receive-line": "#f0a13c",
    "send": "#132a4d",
    "busy-line": "#6e7681",
}

_SHAPES = """
.plan text{font:12px system-ui,"Segoe UI",Roboto,"DejaVu Sans",Helvetica,Arial,sans-serif}
.plan .title{font-size:17px;font-weight:600}
.plan .heading{font-size:14px;font-weight:600}
.plan .worker,.plan .strong{font-weight:600}
.plan .dim{font-weight:400}
.plan .remark{font-size:11.5px}
.plan .label,.plan .tick,.plan .worker,.plan .strong{paint-order:stroke;stroke-width:4px;\
stroke-linejoin:round}
.plan .grid{stroke-width:1;stroke-dasharray:2 4}
.plan .first{stroke-width:1.5;stroke-dasharray:7 3}
.plan .break{fill:none;stroke-width:1.5}
.plan .outline{fill:none;stroke-width:1}
.plan .outline.critical{stroke-width:3}
.plan .shaft{fill:none;stroke-width:1.4}
.plan .critical .shaft{stroke-width:3}
.plan .step:hover .outline{stroke-width:4}
"""


def _colours(colours: dict[str, str]) -> str:
    """Rules without variables: viewers other than browsers do not know those."""
    get = colours.__getitem__
    rules = {
        ".paper": f"fill:{get('paper')}",
        "text": f"fill:{get('ink')}",
        ".dim,.plan .tick,.plan .remark": f"fill:{get('dim')}",
        ".label,.plan .tick,.plan .worker,.plan .strong": f"stroke:{get('paper')}",
        ".on-band": f"stroke:{get('band')}",
        ".lane": f"fill:{get('paper')};stroke:{get('rule')}",
        ".lane-0": f"fill:{get('band')}",
        ".grid": f"stroke:{get('rule')}",
        ".first,.plan .break,.plan .outline,.plan .shaft": f"stroke:{get('ink')}",
        ".head": f"fill:{get('ink')}",
        ".compute": f"fill:{get('compute')}",
        ".tile-receive,.plan .keep": f"fill:{get('receive')}",
        ".tile-generate": f"fill:{get('generate')}",
        ".tile-send": f"fill:{get('send')}",
        ".tile-busy": f"fill:{get('paper')}",
        ".line-receive": f"stroke:{get('receive-line')}",
        ".line-generate": f"stroke:{get('generate-line')}",
        ".line-send": f"stroke:{get('compute')}",
        ".line-busy": f"stroke:{get('busy-line')}",
    }
    return "".join(f".plan {selector}{{{rule}}}\n" for selector, rule in rules.items())


STYLE = (
    _SHAPES
    + "".join(f".plan .{name}{{fill:url(#plan-{name})}}\n" for name in ("send", "receive", "busy"))
    + ".plan .generate{fill:url(#plan-generate)}\n"
    + _colours(_LIGHT)
    + "@media screen and (prefers-color-scheme:dark){\n"
    + _colours(_DARK)
    + "}\n"
)


def _pattern(name: str, width: int, height: int, line: str) -> str:
    return (
        f'<pattern id="plan-{name}" width="{width}" height="{height}" '
        f'patternUnits="userSpaceOnUse"><rect class="tile-{name}" width="{width}" '
        f'height="{height}"/><path class="line-{name}" fill="none" d="{line}"/></pattern>'
    )


PATTERNS = (
    _pattern("receive", 6, 6, "M0 6L6 0M-1 1L1 -1M5 7L7 5"),  # rising lines
    _pattern("generate", 6, 6, "M3 0V6"),  # a stroke per token, so to speak
    _pattern("send", 6, 6, "M0 3H6"),
    _pattern("busy", 6, 6, "M0 6L6 0M0 0L6 6"),  # crossed
)
