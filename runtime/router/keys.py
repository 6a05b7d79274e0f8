"""API keys: a file of hashes, one key per line, read again when it changes.

    alice   sha256:6f1e...   tenant=team-a max_requests=8

A key is 256 random bits, so nobody can try them all, and one SHA-256 hides it as well as a slow hash
would; slow hashes are for passwords that people choose. Knows no HTTP.
"""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mserve.runtime.errors import ConfigError

log = logging.getLogger(__name__)

PREFIX = "mserve-"
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Keys of one tenant share its cache and its places; `max_requests` None: the router's limit."""

    name: str
    digest: bytes
    tenant: str
    max_requests: int | None = None


def new_key(name: str) -> tuple[str, str]:
    """A key, to be shown once, and the line that lets it in. Raises ConfigError for a bad name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"A key's name takes letters, digits and '_.@-', not {name!r}.")
    key = PREFIX + secrets.token_urlsafe(32)
    return key, f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def parse_keys(text: str, path: str) -> tuple[ApiKey, ...]:
    """Raises ConfigError naming file and line."""
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        try:
            key = _parse_line(fields)
            if key.name in keys:
                raise ValueError(f"the name {key.name!r} stands above already")
            if twin := next((each.name for each in keys.values() if each.digest == key.digest), ""):
                raise ValueError(f"this is the key of {twin!r} above; every name has its own")
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: {error}.") from None
        keys[key.name] = key
    return tuple(keys.values())


def _parse_line(fields: Sequence[str]) -> ApiKey:
    if len(fields) < 2 or not _NAME.fullmatch(fields[0]):
        raise ValueError("a line is `NAME sha256:HASH`, as `mserve key new NAME` prints it")
    hashed = _HASH.fullmatch(fields[1])
    if hashed is None:
        raise ValueError("the second field is `sha256:` and 64 hex digits, never a key itself")
    pairs = [_parse_option(field) for field in fields[2:]]
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ValueError("an option stands twice")
    tenant = options.pop("tenant", fields[0])
    most = options.pop("max_requests", None)
    if options:
        raise ValueError(f"{next(iter(options))!r} is unknown; there are tenant and max_requests")
    if not _NAME.fullmatch(tenant):
        raise ValueError(f"a tenant takes letters, digits and '_.@-', not {tenant!r}")
    if most is not None and not re.fullmatch(r"[1-9]\d{0,8}", most):
        raise ValueError(f"max_requests is a number from 1, not {most!r}")
    return ApiKey(fields[0], bytes.fromhex(hashed[1]), tenant, int(most) if most else None)


def _parse_option(field: str) -> tuple[str, str]:
    name, _, value = field.partition("=")
    if not value:
        raise ValueError(f"{field!r} is not `name=value`")
    return name, value


class KeyFile:
    """The keys of a file as it is now. A file that has gone or is malformed leaves those it had."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if the file cannot be read or has no key."""
        self._path = path
        self._stamp = self._seen()
        if self._stamp is None:
            raise ConfigError(f"The file of --api-keys does not exist: {path}")
        self._keys = self._read()
        if not self._keys:
            raise ConfigError(f"{path} has no key; `mserve key new NAME` makes one.")

    def find(self, key: str) -> ApiKey | None:
        """Every digest is compared, in constant time, so the answer's time tells nothing."""
        self._follow()
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found: ApiKey | None = None
        for each in self._keys:
            if hmac.compare_digest(each.digest, digest):
                found = each
        return found

    def _follow(self) -> None:
        stamp = self._seen()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = self._read()
        except ConfigError as error:
            log.error("the API keys stay as they were: %s", error)
            return
        log.info("API keys read from %s: %d", self._path, len(self._keys))
        if not self._keys:
            log.warning("%s has no key now: nobody can ask for completions", self._path)

    def _seen(self) -> tuple[int, ...] | None:
        """Another file, another content: another stamp."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino

    def _read(self) -> tuple[ApiKey, ...]:
        try:
            return parse_keys(self._path.read_text(), str(self._path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._path} cannot be read: {error}") from None
