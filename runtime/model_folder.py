"""The JSON files of a Hugging Face model folder, read with errors an operator can act on.

Knows where things lie, not what they mean to a model: that is `engine/model_config.py` and
`tokenizer.py`.
"""

import json
from pathlib import Path
from typing import Any

from mserve.runtime.errors import ConfigError

Json = dict[str, Any]


def read_json(folder: Path, name: str) -> Json:
    """The object in `folder/name`. Raises ConfigError if it is not there or is not one."""
    if not folder.is_dir():
        raise ConfigError(f"There is no model folder {str(folder)!r}.")
    path = folder / name
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"The model folder {str(folder)!r} has no {name}.") from None
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{str(path)!r} does not hold a JSON object.")
    return value


def read_optional_json(folder: Path, name: str) -> Json:
    """Like `read_json`, and {} if the folder has no such file."""
    return read_json(folder, name) if (folder / name).exists() else {}


def read_eos_ids(folder: Path) -> tuple[int, ...]:
    """The token ids that end a generation: generation_config.json's, else config.json's."""
    for name in ("generation_config.json", "config.json"):
        value = read_optional_json(folder, name).get("eos_token_id")
        if isinstance(value, int):
            return (value,)
        if isinstance(value, list):
            return tuple(int(token) for token in value)
    return ()


class JsonFields:
    """Typed access to an object of the file at `path`, which every error names."""

    def __init__(self, path: Path, raw: Json) -> None:
        self.where = repr(str(path))
        self._raw = raw

    def count(self, name: str, default: int | None = None) -> int:
        """Raises ConfigError unless it is a positive whole number."""
        value = self._value(name, default)
        if not isinstance(value, int) or value <= 0:
            raise ConfigError(f"{self.where}: {name} is {value!r}, not a positive count.")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Raises ConfigError unless it is positive."""
        value = self._value(name, default)
        if not isinstance(value, int | float) or value <= 0:
            raise ConfigError(f"{self.where}: {name} is {value!r}, not positive.")
        return float(value)

    def _value(self, name: str, default: float | None) -> Any:
        value = self._raw.get(name)
        value = default if value is None else value
        if value is None:
            raise ConfigError(f"{self.where} does not give {name}.")
        return value
