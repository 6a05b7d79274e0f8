"""What can go wrong at the edges, one class per meaning; every HTTP status comes from here.

MserveError
├── ConfigError            the operator's mistake; the command exits with 2
└── RequestError           a client's or peer's call cannot be served   (status)
    ├── BadRequest         malformed or out of range                       400
    ├── Unauthorized                                                       401
    ├── NotFound           no such model, ticket, plan, path               404
    ├── Conflict           wrong state, a step started twice               409
    ├── Gone               expired, or meant for another incarnation       410
    ├── TooLarge           body or prompt over its limit                   413
    ├── Unprocessable      ranges or values that make no sense together    422
    ├── NoRoom             no memory or no place in a queue; retry later   429
    ├── EngineFailure      the engine could not do it; its loop lives on   500
    ├── WorkerLost         connection or heartbeat of a worker is gone     502
    │   └── Unreachable    it never took the call                          502
    └── Unavailable        draining, or no worker; retry later             503
"""

from typing import ClassVar


class MserveError(Exception):
    """Base of every error mserve raises on purpose. The message is a full sentence."""


class ConfigError(MserveError):
    """A flag, file or environment that the operator must change; says what to do."""


class RequestError(MserveError):
    """A call that cannot be served. `param` names the offending field where there is one, `code`
    the case for programs, in the OpenAI API's words (`context_length_exceeded`, ...)."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.param = param
        self.retry_after_s = retry_after_s
        self.code = code


class BadRequest(RequestError):
    status = 400
    kind = "invalid_request_error"


class Unauthorized(RequestError):
    status = 401
    kind = "authentication_error"


class NotFound(RequestError):
    status = 404
    kind = "not_found_error"


class Conflict(RequestError):
    status = 409
    kind = "conflict_error"


class Gone(RequestError):
    status = 410
    kind = "gone_error"


class TooLarge(RequestError):
    status = 413
    kind = "request_too_large"


class Unprocessable(RequestError):
    status = 422
    kind = "unprocessable_error"


class NoRoom(RequestError):
    status = 429
    kind = "overloaded_error"
    retryable = True


class EngineFailure(RequestError):
    status = 500
    kind = "engine_error"


class WorkerLost(RequestError):
    status = 502
    kind = "worker_lost_error"
    retryable = True


class Unreachable(WorkerLost):
    """Its work has not begun: as good as a worker that is not there."""


class Unavailable(RequestError):
    status = 503
    kind = "unavailable_error"
    retryable = True


BY_KIND: dict[str, type[RequestError]] = {
    cls.kind: cls
    for cls in (
        BadRequest,
        Unauthorized,
        NotFound,
        Conflict,
        Gone,
        TooLarge,
        Unprocessable,
        NoRoom,
        EngineFailure,
        WorkerLost,
        Unavailable,
    )
}
"""For rebuilding a peer's error from its problem object."""
