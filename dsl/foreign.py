"""Habits of other languages where the parser stopped: operators of several signs, words, numbers
written apart, comments, what stands where a declaration should (habits.py lists them).
"""

from mserve.dsl import builtins, habits
from mserve.dsl.diagnostics import Diagnostic, Edit
from mserve.dsl.failure import Failure
from mserve.dsl.habits import Habit
from mserve.dsl.lalr import Token, span_of
from mserve.dsl.literals import SUFFIXES
from mserve.dsl.misspelled_numbers import UNIT_WORDS
from mserve.dsl.rules.form import syntax
from mserve.dsl.syntax import Span


def foreign_habit(failure: Failure) -> Diagnostic | None:
    found = failure.found
    if found is None:
        return None
    before = failure.tokens[failure.index - 1] if failure.index else None
    spelled = _sequence(failure)
    if failure.complete and spelled is not None and spelled[0] in habits.COMMENTS:
        return _said(habits.COMMENTS[spelled[0]], spelled[1])
    if spelled is not None and spelled[0] in habits.SEQUENCES:
        return _said(habits.SEQUENCES[spelled[0]], spelled[1])
    if before is not None and (named := _bad_name(failure, before, found)) is not None:
        return named
    if before is not None and before.type == "NUMBER":
        split = _split_number(failure, before, found)
        if split is not None:
            return split
    uncalled = _uncalled(before, found) if before is not None else None
    word = uncalled or _word(failure, found)
    if word is not None:
        return word
    if before is not None and str(before) in habits.BEFORE:
        return _said(habits.BEFORE[str(before)], span_of(before))
    return _stray(failure, found) if failure.complete else None


def _bad_name(failure: Failure, before: Token, found: Token) -> Diagnostic | None:
    """`route long-one`, `route else`, and a place that is given without `on`."""
    if before.type == "ROUTE" and found.type == "ELSE":
        hint = "the last route has any name and no condition: `route other { ... }`"
        return syntax(span_of(found), "`else` is a keyword, not a name", help=hint)
    if failure.index < 2:
        return None
    declared = failure.tokens[failure.index - 2]
    if str(found) == "-" and _touch(before, found) and declared.type in _NAMING:
        return _dashed(failure, before)
    if declared.type == "GENERATE" and str(before) in habits.PREPOSITIONS:
        message = f"where an answer is generated is said with `on`, not `{before}`"
        span = span_of(before)
        return syntax(span, message, help=f"write `on {found}`", fix=(Edit(span, "on"),))
    return None


_NAMING = frozenset(["STRATEGY", "ROUTE", "POOL", "PARAM", "LET", "DEF"])


def _word(failure: Failure, found: Token) -> Diagnostic | None:
    """A word, or two, that other languages have where the parser stopped."""
    following = failure.tokens[failure.index + 1 : failure.index + 2]
    if following and (pair := habits.PAIRS.get(f"{found} {following[0]}")) is not None:
        return _said(pair, Span(span_of(found).start, span_of(following[0]).end))
    if str(found) in habits.WORDS:
        return _said(habits.WORDS[str(found)], span_of(found))
    for kind, words in habits.LINES.items():
        if kind in failure.stop.accepts and str(found) in words:
            return _said(words[str(found)], span_of(found))
    return None


def _uncalled(name: Token, argument: Token) -> Diagnostic | None:
    """`load d`, `next decode`: a built-in without its parentheses."""
    called = name.type == "NAME" and name in builtins.CALLS and name.line == argument.line
    if not called or argument.type not in ("NAME", "PROMPT"):
        return None
    span = Span(span_of(name).start, span_of(argument).end)
    edits = (
        Edit(Span(span_of(name).end, span_of(argument).start), "("),
        Edit(Span(span.end, span.end), ")"),
    )
    hint = f"write `{name}({argument})`"
    return syntax(span, f"`{name}` is called with parentheses", help=hint, fix=edits)


def _said(habit: Habit, span: Span) -> Diagnostic:
    """A habit's words about a place."""
    fix = (Edit(span, habit.replacement),) if habit.replacement is not None else ()
    hint = habit.help or (f"write `{habit.replacement}`" if habit.replacement else "")
    return syntax(span, habit.message, help=hint, fix=fix)


def _sequence(failure: Failure) -> tuple[str, Span] | None:
    """What the token that stopped the parser spells together with those that touch it."""
    first = last = failure.index
    tokens = failure.tokens
    while first > 0 and _is_sign(tokens[first - 1]) and _touch(tokens[first - 1], tokens[first]):
        first -= 1
    while last + 1 < len(tokens) and _is_sign(tokens[last + 1]):
        if not _touch(tokens[last], tokens[last + 1]):
            break
        last += 1
    if first == last or not _is_sign(tokens[failure.index]):
        return None
    span = Span(span_of(tokens[first]).start, span_of(tokens[last]).end)
    return "".join(map(str, tokens[first : last + 1])), span


def _is_sign(token: Token) -> bool:
    return str(token)[0] in "+-*/<>=!:"


def _touch(left: Token, right: Token) -> bool:
    return span_of(left).end == span_of(right).start


def _split_number(failure: Failure, number: Token, found: Token) -> Diagnostic | None:
    """`5 ms` and `1,000`: what belongs to a number, written apart."""
    between = Span(span_of(number).end, span_of(found).start)
    whole = Span(span_of(number).start, span_of(found).end)
    if str(found) in SUFFIXES and number.line == found.line:
        message = "a unit stands right behind its number"
        written = f"{number}{found}"
        return syntax(whole, message, help=f"write `{written}`", fix=(Edit(between, ""),))
    unit = UNIT_WORDS.get(str(found).lower())
    if unit is not None and number.line == found.line:
        written = f"{number}{unit}"
        fix = (Edit(whole, written),)
        if not unit:
            return syntax(whole, "counts have no unit", help=f"write `{written}`", fix=fix)
        message = f"the unit `{found}` is written `{unit}`, right behind its number"
        return syntax(whole, message, help=f"write `{written}`", fix=fix)
    following = failure.tokens[failure.index + 1 : failure.index + 2]
    if str(found) == "," and following and _touch(found, following[0]):
        message = "digits are written without `,`"
        written = f"{number}{following[0]}"
        fix = (Edit(span_of(found), ""),)
        return syntax(span_of(found), message, help=f"write `{written}`", fix=fix)
    return None


def _dashed(failure: Failure, name: Token) -> Diagnostic:
    """`pool pre-fill`: a name with a dash in it."""
    last = failure.tokens[min(failure.index + 1, len(failure.tokens) - 1)]
    span = Span(span_of(name).start, span_of(last).end)
    is_word = str(last).isidentifier()
    hint = f"write `{name}_{last}`" if is_word else "letters, digits and `_`"
    return syntax(span, "a name is a word without dashes", help=hint)


def _stray(failure: Failure, found: Token) -> Diagnostic | None:
    """What stands where a declaration should."""
    span = span_of(found)
    following = failure.tokens[failure.index + 1 : failure.index + 2]
    habit = habits.STRAY.get(str(found))
    before = failure.tokens[failure.index - 1] if failure.index else None
    if before is not None and _touch(before, found):
        if str(found) == "-":
            return _dashed(failure, before)
        if str(found) == "[":
            hint = "a choice looks at all of them: `argmin(load(w) for w in POOL)`"
            return syntax(span, "workers are not taken by position", help=hint)
    if str(found) == "{" and before is not None and before.type == "TEXT":
        hint = "leave this `{` and its `}` out: what follows belongs to the strategy"
        return syntax(span, "a strategy has no braces around it", help=hint)
    if habit is not None:
        return _said(habit, span)
    if found.type == "NAME" and following and str(following[0]) == "=":
        hint = f"write `let {found} = ...`; a setting stands in the braces of its pool"
        fix = (Edit(Span(span.start, span.start), "let "),)
        return syntax(span, "a name is given to a value with `let`", help=hint, fix=fix)
    return None
