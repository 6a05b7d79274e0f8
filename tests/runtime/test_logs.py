"""Log lines are JSON objects, one a line, with the fields a record carries."""

import io
import json
import logging

from mserve.runtime.logs import JsonFormatter


def log_line(write: object, **options: object) -> dict[str, object]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("mserve.test")
    logger.addHandler(handler)
    logger.warning(write, **options)  # type: ignore[arg-type]
    assert stream.getvalue().count("\n") == 1
    line: dict[str, object] = json.loads(stream.getvalue())
    return line


def test_a_line_has_the_extra_fields_and_nothing_of_logging() -> None:
    line = log_line("over\nlines", extra={"request_id": "r", "status": 200})
    assert line.pop("time")
    assert line == {
        "level": "warning",
        "logger": "mserve.test",
        "message": "over\nlines",
        "request_id": "r",
        "status": 200,
    }


def test_an_exception_stays_on_its_line() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        line = log_line("failed", exc_info=True)
    assert "ValueError: why" in str(line["traceback"])
