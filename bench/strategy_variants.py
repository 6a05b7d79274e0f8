"""What the search for better strategies tries: shipped ones, and texts made of them.

Owns the changes. A text is all but the tests of a strategy, which are about the unchanged one. Knows
neither traffic nor figures: strategy_search.py has them.
"""

from collections.abc import Mapping
from importlib.resources import files

SHIPPED = (
    "data_parallel",
    "least_loaded",
    "preble_live",
    "prefill_decode",
    "balanced",
    "preble_pd",
    "deflect",
    "deflect_chunked",
    "deflect_sooner",
)
APART = "pool prefill\npool decode\n"
SPLIT = "route split {\n  compute prompt on p\n  generate on d\n}\n"


def source(name: str) -> str:
    """A shipped strategy without its tests."""
    text = (files("mserve.strategies") / f"{name}.mserve").read_text("utf-8")
    return text[: text.index("\ntest ")]


def edited(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in text, f"the strategy has no {old!r} any more"
        text = text.replace(old, new)
    return text


def batch(pool: str, tokens: int, chunk: int) -> str:
    return f"pool {pool} {{ batch = continuous(tokens = {tokens}, chunk = {chunk}) }}"


# --- from `deflect` to `deflect_chunked` ----------------------------------------------------------


def with_margin(milliseconds: int) -> str:
    return edited(source("deflect"), ("margin = 60ms", f"margin = {milliseconds}ms"))


def with_steps(tokens: int, chunk: int) -> str:
    """`deflect`, of whose decode workers a step computes so many prompt tokens at most."""
    pools = f"pool prefill\n{batch('decode', tokens, chunk)}\n"
    return edited(source("deflect"), (APART, pools))


def chunked(prefill: int = 3072, weight: float = 1.7, margin: int = 50) -> str:
    """`deflect_chunked` with other numbers; `prefill` is the tokens of a prefill worker's step."""
    return edited(
        source("deflect_chunked"),
        (batch("prefill", 3072, 3072), batch("prefill", prefill, prefill)),
        ("weight = 1.7", f"weight = {weight}"),
        ("margin = 50ms", f"margin = {margin}ms"),
    )


def by_prediction() -> str:
    """`deflect_chunked` with the predicted times to the first token for a rule."""
    text = source("deflect_chunked")
    kept = text[: text.index("param ")] + text[text.index("pool prefill") :]
    patience = kept[kept.index("let patience") : kept.index("\nroute whole")]
    guard = kept[kept.index("route whole when") : kept.index(" {\n  generate on d")]
    return edited(kept, (patience, ""), (guard, "route whole when ttft(whole) < ttft(split)"))


def shared_out(percent: int) -> str:
    """`deflect_chunked`: where all of a prompt would go to the decode worker, that much does."""
    steps = f"  compute prompt[:{percent}%] on d\n  compute rest on p\n  generate on d\n}}"
    return edited(
        source("deflect_chunked"),
        ("patience for w in prefill) {\n  generate on d\n}", _when(steps)),
    )


def _when(steps: str) -> str:
    return f"patience for w in prefill) {{\n{steps}"


def first_token_there() -> str:
    """`deflect_chunked`: the prefill worker gives the first token, too."""
    handed = "route split {\n  generate 1 on p\n  generate on d\n}\n"
    return edited(source("deflect_chunked"), (SPLIT, handed))


CHUNKED: Mapping[str, str] = {
    **{f"`deflect`, margin {ms} ms": with_margin(ms) for ms in (0, 200, 400, 600)},
    **{f"decode in steps of {n}": with_steps(n, n) for n in (512, 256, 128, 320)},
    "chunks of 384 in steps of 8192": with_steps(8192, 384),
    **{
        f"steps of 320, prefill in steps of {n}": chunked(n, weight=1)
        for n in (512, 1024, 3072, 8192)
    },
    "the decode worker's backlog counts 2.5 times": chunked(weight=2.5),
    "1.7 times: `deflect_chunked`": chunked(),
    "by `ttft(whole) < ttft(split)`": by_prediction(),
    "the decode worker computes the first half meanwhile": shared_out(50),
    "the prefill worker gives the first token": first_token_there(),
}

# --- from `deflect_chunked` to `deflect_sooner` ---------------------------------------------------


def sooner(weight: float = 2.5, decode: int = 320, prefill: tuple[int, int] = (3072, 3072)) -> str:
    """`deflect_sooner` with other numbers; `decode` and `prefill` are tokens of a step."""
    return edited(
        source("deflect_sooner"),
        ("weight = 2.5", f"weight = {weight}"),
        (batch("decode", 320, 320), batch("decode", decode, decode)),
        (batch("prefill", 3072, 3072), batch("prefill", *prefill)),
    )


def fetching() -> str:
    """`deflect_sooner`: what any decode worker has cached is taken from there, not computed."""
    home = "let home = argmax(cached(w) for w in decode)\nlet held = cached(home)\n\ndef need"
    return edited(
        source("deflect_sooner"),
        ("def need", home),
        ("tokens(prompt) - cached(w)", "tokens(prompt) - max(cached(w), held)"),
        ("{\n  generate on d", "{\n  reuse prompt from home\n  generate on d"),
        ("  compute prompt on p", "  reuse prompt[:held] from home\n  compute rest on p"),
    )


def small_steps(name: str, tokens: int) -> str:
    """A whole-request strategy whose workers compute so many prompt tokens in a step at most."""
    text = source(name)
    begin = text.index("pool workers")
    line = text[begin : text.index("\n", begin)]
    settings = line.removeprefix("pool workers").strip(" {}")
    pool = batch("workers", tokens, tokens).removesuffix(" }")
    return edited(text, (line, f"{pool}  {settings} }}"))


SOONER: Mapping[str, str] = {
    **{f"`deflect_sooner`, weight {w}": sooner(w) for w in (1, 1.3, 1.7, 2, 2.5, 3, 4)},
    "decode in steps of 512": sooner(decode=512),
    "decode in steps of 256": sooner(decode=256),
    "prefill in chunks of 1024": sooner(prefill=(8192, 1024)),
    "takes what is cached elsewhere": fetching(),
    "`least_loaded` in steps of 512": small_steps("least_loaded", 512),
    "`preble_live` in steps of 512": small_steps("preble_live", 512),
    "`preble_live` in steps of 1024": small_steps("preble_live", 1024),
}
