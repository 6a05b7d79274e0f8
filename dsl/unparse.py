"""A syntax tree as text, on as few lines as the grammar allows and without needless parentheses.

`parse(unparse(tree)) == tree`. What a tree does not hold (comments, empty lines, the order of
declarations of different kinds) is lost; format.py keeps it, from the text.
"""

from collections.abc import Iterable, Mapping

from mserve.dsl import syntax
from mserve.dsl.syntax import Expr

# From the loosest binding to the tightest, as in the grammar.
_CONDITIONAL, _OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _FACTOR, _ATOM = range(9)
_LEVELS: Mapping[str, int] = {
    "or": _OR,
    "and": _AND,
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), _COMPARISON),
    **dict.fromkeys("+-", _SUM),
    **dict.fromkeys("*/", _PRODUCT),
}


_LONGEST_SHOWN = 30


def unparse(strategy: syntax.Strategy) -> str:
    """The whole file, one line per declaration and item."""
    lines = [f"strategy {strategy.name} {quoted(strategy.description)}"]
    lines += [f"param {_param(param)}" for param in strategy.params]
    lines += [f"pool {pool.name} {_block(map(setting, pool.settings))}" for pool in strategy.pools]
    lines += [f"let {let.name} = {expression(let.value)}" for let in strategy.lets]
    lines += [f"def {signature(each)} = {expression(each.value)}" for each in strategy.defs]
    lines += [f"{route_head(each)} {_block(map(step, each.steps))}" for each in strategy.routes]
    for adapt in strategy.adapts:
        lines.append(f"adapt every {expression(adapt.every)} {_block(map(setting, adapt.updates))}")
    lines += [f"slo {_block(map(setting, slo.goals))}" for slo in strategy.slos]
    lines += [f"limits {_block(map(setting, each.limits))}" for each in strategy.limits]
    lines += [f"test {quoted(test.title)} {_block(_test_lines(test))}" for test in strategy.tests]
    return "\n".join(lines) + "\n"


def declaration(item: syntax.Param | syntax.Pool | syntax.Let | syntax.Def | syntax.Route) -> str:
    """A declaration on one line; of pools and routes what stands before the braces."""
    match item:
        case syntax.Param():
            return f"param {_param(item)}"
        case syntax.Pool():
            return f"pool {item.name}"
        case syntax.Let():
            return f"let {item.name} = {expression(item.value)}"
        case syntax.Def():
            return f"def {signature(item)} = {expression(item.value)}"
        case syntax.Route():
            return route_head(item)


def _block(items: Iterable[str]) -> str:
    inside = "\n".join(items)
    return f"{{\n{inside}\n}}" if inside else "{}"


def _param(param: syntax.Param) -> str:
    low, high = expression(param.low), expression(param.high)
    return f"{param.name} = {expression(param.default)} in {low}..{high}"


def signature(definition: syntax.Def) -> str:
    return f"{definition.name}({', '.join(definition.parameters)})"


def route_head(route: syntax.Route) -> str:
    guard = "" if route.guard is None else f" when {expression(route.guard)}"
    return f"route {route.name}{guard}"


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# --- items of blocks -------------------------------------------------------------------------


def setting(item: syntax.Setting) -> str:
    """`name = value`; only the value where it has no name (`peer(POOL)`)."""
    value = item.value
    if isinstance(value, syntax.SettingCall):
        written = f"{value.name}({', '.join(map(setting, value.args))})"
    else:
        written = expression(value)
    return f"{item.name} = {written}" if item.name else written


def step(item: syntax.Step) -> str:
    worker = expression(item.worker)
    match item:
        case syntax.Generate():
            count = "" if item.count is None else f"{expression(item.count)} "
            return f"generate {count}on {worker}"
        case syntax.Compute():
            return f"compute {_range(item.range)} on {worker}"
        case syntax.Reuse():
            return f"reuse {_range(item.range)} from {worker}"
        case syntax.Replicate():
            return f"replicate {_range(item.range)} to {worker}"


def _range(item: syntax.Range) -> str:
    return "rest" if isinstance(item, syntax.Rest) else expression(item)


def _test_lines(test: syntax.Test) -> Iterable[str]:
    if test.cluster:
        yield f"cluster {', '.join(map(setting, test.cluster))}"
    if test.givens:
        facts = (f"{expression(each.target)} = {expression(each.value)}" for each in test.givens)
        yield f"given {', '.join(facts)}"
    for expectation in test.expectations:
        yield f"expect {_expectation(expectation)}"


def _expectation(item: syntax.Expectation) -> str:
    match item:
        case syntax.ExpectRoute():
            return f"route {item.route}"
        case syntax.ExpectValue():
            return f"{expression(item.target)} = {expression(item.value)}"
        case syntax.ExpectSends():
            source, target = expression(item.source), expression(item.target)
            return f"sends [{_bounds(item.range)}] from {source} to {target}"


# --- expressions -----------------------------------------------------------------------------


def expression(expr: Expr) -> str:
    return _at(expr, _CONDITIONAL)


def shown(expr: Expr) -> str:
    """An expression in a message: as text if it is short, else `this`."""
    text = expression(expr)
    return f"`{text}`" if len(text) <= _LONGEST_SHOWN else "this"


def _at(expr: Expr, level: int) -> str:
    """In parentheses if it binds looser than `level`."""
    text, own = _written(expr)
    return text if own >= level else f"({text})"


def _written(expr: Expr) -> tuple[str, int]:
    """An expression and how tightly it binds."""
    match expr:
        case syntax.Unary(op="not"):
            return f"not {_at(expr.operand, _NOT)}", _NOT
        case syntax.Unary():
            return f"-{_at(expr.operand, _FACTOR)}", _FACTOR
        case syntax.Binary():
            own = _LEVELS[expr.op]
            left = own + 1 if own == _COMPARISON else own
            return f"{_at(expr.left, left)} {expr.op} {_at(expr.right, own + 1)}", own
        case syntax.Conditional():
            then, condition = _at(expr.then, _OR), _at(expr.condition, _OR)
            return f"{then} if {condition} else {expression(expr.otherwise)}", _CONDITIONAL
        case _:
            return _atom(expr), _ATOM


def _atom(expr: Expr) -> str:
    match expr:
        case syntax.Call():
            return f"{expr.name}({', '.join(map(expression, expr.args))})"
        case syntax.Fold():
            return f"{expr.op}({expression(expr.value)}{_for_each(expr)})"
        case syntax.Filter():
            return f"[{expr.variable}{_for_each(expr)}]"
        case syntax.PromptRange(begin=None, end=None):
            return "prompt"
        case syntax.PromptRange():
            return f"prompt[{_bounds(expr)}]"
        case _:
            return _leaf(expr)


def _leaf(expr: Expr) -> str:
    match expr:
        case syntax.Number():
            return expr.text
        case syntax.Text():
            return quoted(expr.value)
        case syntax.Boolean():
            return "true" if expr.value else "false"
        case syntax.Name():
            return expr.name
        case syntax.WorkerAt():
            return f"{expr.pool}[{expr.index}]"
    raise AssertionError(f"{type(expr).__name__} is no leaf")


def _for_each(expr: syntax.Fold | syntax.Filter) -> str:
    where = "" if expr.where is None else f" where {expression(expr.where)}"
    return f" for {expr.variable} in {expression(expr.pool)}{where}"


def _bounds(expr: syntax.PromptRange) -> str:
    begin = "" if expr.begin is None else expression(expr.begin)
    return f"{begin}:{'' if expr.end is None else expression(expr.end)}"
