"""A request as the router carries it, once it has been checked and its prompt tokenized."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mserve.runtime.messages import Render, Sampling


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """`tokens` is the prompt as int32 little endian. `facts` is what a strategy may ask about the
    request by name: `priority`, `tenant`, `model`, `session`, `header:x-name`."""

    id: str
    tokens: bytes
    sampling: Sampling
    render: Render
    salt: bytes = b""
    facts: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return len(self.tokens) // 4
