"""Structured logs: one JSON object a line, with whatever fields a record carries in `extra`.

Fields that every record has anyway (thread, module, ...) stay out. Configuring is the commands'
business: importing this changes nothing.
"""

import logging
import sys
from typing import TextIO

import msgspec

_json = msgspec.json.Encoder(enc_hook=str).encode
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    """`{"time": ..., "level": ..., "logger": ..., "message": ..., <fields of extra>}`"""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _json(line).decode()


def configure_logging(level: str = "info", stream: TextIO | None = None) -> None:
    """Sends this process's log to `stream` (standard error) as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
