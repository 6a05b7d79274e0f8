"""The settings of pools, `slo` and `limits`: what each takes, what it means, and whether it fits.

The one table that checks, hover and completion share. Knows nothing of what the runtime does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mserve.dsl import builtins, synonyms, syntax
from mserve.dsl.constants import value_of
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.inference import Inference
from mserve.dsl.rules.naming import duplicate_name, unknown_name
from mserve.dsl.rules.settings import bad_setting, unknown_setting
from mserve.dsl.rules.units import not_available_here
from mserve.dsl.suggestion import nearest
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import Setting, SettingCall, Span
from mserve.dsl.types import BYTES, COUNT, DURATION, RATIO, Type
from mserve.dsl.unparse import shown


@dataclass(frozen=True, slots=True)
class Constant:
    """A number of `type` in `[low, high]` in base units; `unit` is the suffix to suggest."""

    type: Type
    low: float
    doc: str
    high: float = float("inf")
    whole: bool = False
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Word:
    """One of a setting's variants; `takes_pool` is the positional argument of `peer(POOL)`."""

    doc: str
    settings: Mapping[str, Constant] = field(default_factory=dict)
    takes_pool: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    words: Mapping[str, Word]
    doc: str


Specification = Constant | Choice

_QUEUES = {
    "fcfs": Word("first come, first served"),
    "hit_ratio": Word(
        "in groups by cached share of the prompt, higher ones more often; starves nobody",
        {"groups": Constant(COUNT, 1, "number of groups", whole=True)},
    ),
    "deadline": Word("earliest deadline for the first token first"),
    "priority": Word("highest `priority` of the request first; who waits long overtakes"),
}
_BATCHES = {
    "continuous": Word(
        "requests join and leave at every step",
        {
            "tokens": Constant(COUNT, 1, "most tokens per step", whole=True),
            "chunk": Constant(COUNT, 1, "most tokens of one prompt per step", whole=True),
        },
    ),
    "aligned": Word(
        "decode batches of similar KV length",
        {
            "spread": Constant(RATIO, 1, "longest over shortest KV of a batch"),
            "patience": Constant(DURATION, 0, "longest wait for a batch that fits", unit="ms"),
            "fill": Constant(RATIO, 0, "share of a batch below which it is refilled", high=1),
        },
    ),
}
_PREFETCHES = {
    "none": Word("KV is loaded when it is needed"),
    "local": Word("the worker loads from its own host memory ahead of need"),
    "peer": Word("a worker of another pool loads ahead for this one", takes_pool=True),
}

POOL: Mapping[str, Specification] = {
    "workers": Constant(COUNT, 1, "how many the launcher and the simulator start", whole=True),
    "gpus": Constant(COUNT, 1, "GPUs per worker (tensor parallel)", whole=True),
    "queue": Choice(_QUEUES, "which waiting request goes first"),
    "batch": Choice(_BATCHES, "how batches are formed"),
    "host_cache": Constant(BYTES, 0, "host memory for KV per worker"),
    "prefetch": Choice(_PREFETCHES, "who loads KV from host memory ahead of need"),
    "prefix_cache": Choice(
        {"lru": Word("least recently used leaves first"), "none": Word("nothing is kept")},
        "what is kept of finished requests",
    ),
}
SLO: Mapping[str, Specification] = {
    "ttft": Constant(DURATION, 0, "goal for the time to first token", unit="ms"),
    "tpot": Constant(DURATION, 0, "goal for the time per output token", unit="ms"),
}
LIMITS: Mapping[str, Specification] = {
    "timeout": Constant(DURATION, 0, "longest a request may take, waiting included", unit="s"),
    "retries": Constant(COUNT, 0, "how often a request is planned anew", whole=True),
}


def check_settings(
    strategy: syntax.Strategy, symbols: Symbols, inference: Inference
) -> Iterator[Diagnostic]:
    checker = _SettingChecker(symbols, inference)
    for pool in strategy.pools:
        yield from checker.check_all("a pool", pool.settings, POOL, pool.name)
    goals = tuple(goal for slo in strategy.slos for goal in slo.goals)
    yield from checker.check_all("`slo`", goals, SLO)
    limits = tuple(limit for limits in strategy.limits for limit in limits.limits)
    yield from checker.check_all("`limits`", limits, LIMITS)
    updates = [update for adapt in strategy.adapts for update in adapt.updates]
    yield from _check_repeated(updates)
    for test in strategy.tests:
        yield from _check_repeated(test.cluster)


def _check_repeated(settings: Sequence[Setting]) -> Iterator[Diagnostic]:
    seen: dict[str, Span] = {}
    for setting in settings:
        if setting.name in seen:
            spans = setting.name_span, seen[setting.name]
            yield duplicate_name(spans[0], setting.name, "a value", spans[1], "a value")
        seen.setdefault(setting.name, setting.name_span)


@dataclass(frozen=True)
class _SettingChecker:
    symbols: Symbols
    inference: Inference

    def check_all(
        self,
        owner: str,
        settings: tuple[Setting, ...],
        known: Mapping[str, Specification],
        pool: str = "",
    ) -> Iterator[Diagnostic]:
        yield from _check_repeated(settings)
        for setting in settings:
            specification = known.get(setting.name)
            if specification is None:
                meant = synonyms.SETTINGS.get(setting.name, "")
                yield unknown_setting(setting.name_span, setting.name, owner, list(known), meant)
            elif isinstance(specification, Constant):
                yield from self._check_constant(setting, specification)
            else:
                yield from self._check_choice(setting, specification, pool)

    def _check_constant(self, setting: Setting, wanted: Constant) -> Iterator[Diagnostic]:
        value = setting.value
        if isinstance(value, (SettingCall, syntax.Name)):
            yield self._not_constant(setting, value, str(wanted.type))
            return
        number = value_of(value)
        if isinstance(value, syntax.Text | syntax.Boolean):
            yield self._not_a_number(setting, value, wanted)
            return
        if number is None:
            reason = "a setting takes a constant: literals with `+ - * /`"
            yield not_available_here(value.span, shown(value), reason)
            return
        self.inference.expect(value, wanted.type, unit=wanted.unit)
        if not wanted.low <= number <= wanted.high or (wanted.whole and number % 1):
            yield bad_setting(value.span, setting.name, _range_of(wanted))

    def _not_a_number(
        self, setting: Setting, value: syntax.Text | syntax.Boolean, wanted: Constant
    ) -> Diagnostic:
        unquoted = value.value if isinstance(value, syntax.Text) else ""
        hint = f"write `{unquoted}`, without quotes" if unquoted[:1].isdigit() else ""
        return bad_setting(value.span, setting.name, str(wanted.type), help=hint)

    def _not_constant(
        self, setting: Setting, value: SettingCall | syntax.Name, wanted: str
    ) -> Diagnostic:
        if value.name in self.symbols.names or value.name in builtins.NAMES:
            reason = "a setting takes a constant: it is read before there is a request"
            return not_available_here(value.span, f"`{value.name}`", reason)
        return bad_setting(value.span, setting.name, wanted)

    def _check_choice(self, setting: Setting, wanted: Choice, pool: str) -> Iterator[Diagnostic]:
        value = setting.value
        if not isinstance(value, (SettingCall, syntax.Name)) or value.name not in wanted.words:
            yield _unknown_word(setting, wanted)
            return
        word = wanted.words[value.name]
        arguments = value.args if isinstance(value, SettingCall) else ()
        if word.takes_pool:
            yield from self._check_peer(setting, arguments, pool)
            return
        for argument in arguments:
            if not argument.name:
                names = ", ".join(f"{each} = ..." for each in word.settings)
                hint = f"write `{value.name}({names})`" if names else f"write `{value.name}`"
                yield bad_setting(argument.span, value.name, "arguments with names", help=hint)
        named = tuple(argument for argument in arguments if argument.name)
        yield from self.check_all(f"`{value.name}`", named, word.settings)

    def _check_peer(
        self, setting: Setting, arguments: tuple[Setting, ...], pool: str
    ) -> Iterator[Diagnostic]:
        peer = arguments[0].value if len(arguments) == 1 and not arguments[0].name else None
        if not isinstance(peer, syntax.Name):
            others = [each for each in self.symbols.pools if each != pool]
            hint = f"write `{setting.name} = peer({others[0] if others else 'POOL'})`"
            wanted = "`peer` with the name of a pool"
            yield bad_setting(setting.value.span, setting.name, wanted, help=hint)
        elif peer.name == pool:
            yield bad_setting(peer.span, setting.name, "another pool than its own")
        elif peer.name not in self.symbols.unread and peer.name not in self.symbols.pools:
            yield unknown_name(peer.span, peer.name, "pool", self.symbols.pools)


def _unknown_word(setting: Setting, wanted: Choice) -> Diagnostic:
    """With the word that was meant: misspelled, in quotes, or another system's."""
    value = setting.value
    match value:
        case SettingCall() | syntax.Name():
            word, written = value.name, value.name
        case syntax.Text():
            word, written = value.value, f'"{value.value}"'
        case syntax.Boolean():
            word = written = "true" if value.value else "false"
        case _:
            word = written = ""
    one_of = "one of " + ", ".join(f"`{each}`" for each in wanted.words)
    known = synonyms.SETTING_WORDS.get(word.lower(), "")
    meant = known if known in wanted.words else nearest(word, wanted.words) if word else None
    return bad_setting(value.span, setting.name, one_of, written, meant or "")


def _range_of(wanted: Constant) -> str:
    number = "a whole number" if wanted.whole else "a value"
    ends = wanted.low, wanted.high
    low, high = (f"{100 * end:g}%" if wanted.type == RATIO else f"{end:g}" for end in ends)
    if wanted.high == float("inf"):
        return f"{number} of at least {low}"
    return f"{number} from {low} to {high}"
