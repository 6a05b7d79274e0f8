"""What each step of a plan does, as a few words that a reader who does not know the calls follows."""

from collections.abc import Mapping

from mserve.compiler.describe import Labels
from mserve.compiler.origins import Origins
from mserve.compiler.plan import (
    FIRST_TOKEN,
    Commit,
    Plan,
    PrepRecv,
    RemoteSend,
    StartGenerate,
    Step,
    TicketName,
)
from mserve.dsl.source import Source
from mserve.dsl.syntax import Generate, Number, Reuse


class Phrases:
    """Words for one plan. `amounts` says how much moves under each ticket."""

    def __init__(
        self,
        plan: Plan,
        labels: Labels,
        origins: Origins,
        source: Source,
        amounts: Mapping[TicketName, str],
    ) -> None:
        self._plan = plan
        self._labels = labels
        self._origins = origins
        self._source = source
        self._amounts = amounts
        self._is_symbolic = bool(labels.positions)
        self._preps = {s.ticket: s for s in plan.steps if isinstance(s, PrepRecv)}
        self._senders = {t: s for s in plan.steps if isinstance(s, RemoteSend) for t in s.to}

    def of(self, step: Step) -> str:
        if isinstance(step, PrepRecv):
            sender = self._labels.worker(self._senders[step.ticket].worker)
            return f"receive KV of {self._amounts[step.ticket]} from {sender}"
        if isinstance(step, RemoteSend):
            return self._send(step)
        if isinstance(step, StartGenerate):
            return self._generate(step)
        prep = self._preps[step.ticket]
        what = self._range(prep.begin, prep.end)
        return f"keep {what} as cache" if isinstance(step, Commit) else f"give back {what}"

    def _range(self, begin: int, end: int) -> str:
        return f"[{self._labels.position(begin)}, {self._labels.position(end)})"

    def _send(self, step: RemoteSend) -> str:
        whole = self._range(step.begin, step.end)
        if step.end > self._plan.num_tokens:
            return f"send {whole}, the answer's part as it grows"
        if any(name.endswith(FIRST_TOKEN) for name in step.after):
            return f"send a copy of {whole}"
        cached = self._labels.cached.get(step.worker, 0)
        if cached >= step.end or self._is_reused(step):
            return f"send {whole} from its cache"
        if not step.to:
            return f"compute {self._range(max(cached, step.begin), step.end)}"
        if cached > step.begin:
            return f"compute {self._range(cached, step.end)}, send {whole}"
        return f"compute and send {whole}"

    def _is_reused(self, step: RemoteSend) -> bool:
        """Over symbols nothing is cached but what the route says it reuses."""
        return self._is_symbolic and all(
            isinstance(origin, Reuse) for origin in self._origins[step.id]
        )

    def _generate(self, step: StartGenerate) -> str:
        num_tokens = self._plan.num_tokens
        if step.begin >= num_tokens:
            return "go on generating"
        begin = max(step.begin, self._labels.cached.get(step.worker, 0))
        begin = min(begin, num_tokens - 1)  # the last token always runs
        computed = f"compute {self._range(begin, num_tokens)}"
        if step.max_tokens is None:
            return f"{computed}, then generate"
        return f"{computed}, then generate {self._count(step)} tokens"

    def _count(self, step: StartGenerate) -> str:
        """Of a handoff: as written, or the number it comes to."""
        if not self._is_symbolic:
            return str(step.max_tokens)
        generates = (each for each in self._origins[step.id] if isinstance(each, Generate))
        count = next(each.count for each in generates if each.count is not None)
        text = self._source.one_line(count.span)
        return text if isinstance(count, Number) else f"`{text}`"
