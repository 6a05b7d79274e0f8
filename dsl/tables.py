"""The parser of the grammar: built once by lark, then kept as saved tables in the user's cache.

Building takes some 170 ms and loading 4 ms. A saved file is used only if it was made from the same
grammar by the same lark and Python and is whole (its digest is checked before it is unpickled);
where none can be read or written, the parser is built anew. Knows nothing of what the rules mean.
"""

import hashlib
import os
import pickle
import sys
import tempfile
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import lark

STARTS = ["start", "strategy", "declaration"]
_DIGEST_BYTES = hashlib.sha256().digest_size


@cache
def load_parser() -> lark.Lark:
    """The parser, from the saved tables where possible."""
    grammar = grammar_text()
    path = saved_path(grammar)
    saved = read_saved(path)
    if saved is not None:
        return saved
    parser = build_parser(grammar)
    write_saved(path, parser)
    return parser


def grammar_text() -> str:
    return files("mserve.grammars").joinpath("mserve.lark").read_text("utf-8")


def build_parser(grammar: str) -> lark.Lark:
    return lark.Lark(
        grammar,
        parser="lalr",
        lexer="basic",
        strict=True,
        start=STARTS,
        propagate_positions=True,
        maybe_placeholders=True,
    )


def saved_path(grammar: str) -> Path:
    """Where the tables of this grammar are kept; the name says for which lark and Python, too."""
    python = f"{sys.implementation.cache_tag}"
    key = hashlib.sha256(f"{grammar}\0{lark.__version__}\0{python}".encode()).hexdigest()
    return _cache_folder() / f"grammar-{key[:32]}.tables"


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return Path(root if root else os.path.expanduser("~/.cache")) / "mserve"


def read_saved(path: Path) -> lark.Lark | None:
    """The parser saved at `path`, or None where there is none or it is not whole."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, tables = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(tables).digest() != digest:
        return None
    try:
        return lark.Lark.load(BytesIO(tables))
    except (pickle.UnpicklingError, AttributeError, KeyError, TypeError, ValueError):
        return None  # written by a lark of the same version but another build


def write_saved(path: Path, parser: lark.Lark) -> None:
    """Saves atomically; a place that cannot be written is no error, only slower."""
    buffer = BytesIO()
    parser.save(buffer)
    tables = buffer.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            file = Path(folder) / path.name
            file.write_bytes(hashlib.sha256(tables).digest() + tables)
            os.replace(file, path)
    except OSError:
        return
