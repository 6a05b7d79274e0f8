"""How many requests a router has under way at once, in all and of one tenant.

What is let in is served or fails by `limits.timeout`; what is not is told so at once (429), so that
neither the workers' queues nor this process's memory grow with the rate of requests. Knows no plan.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mserve.runtime.config import AdmissionOptions
from mserve.runtime.errors import BadRequest, NoRoom

MAX_RETRY_AFTER_S = 60.0
_WEIGHT = 0.05  # of the latest request in the running mean of durations


class Admission:
    """Requests without a tenant share one name, and its limit. `now` gives seconds."""

    def __init__(self, options: AdmissionOptions, now: Callable[[], float]) -> None:
        self._now = now
        self._max_requests = options.max_requests
        self._per_tenant = options.per_tenant or options.max_requests
        self._by_tenant: Counter[str] = Counter()
        self._mean_s = 1.0
        self.num_open = 0

    @contextmanager
    def admit(self, tenant: str, most: int | None = None, count: int = 1) -> Iterator[None]:
        """Takes a place for each of `count` answers for the body's time; `most` instead of what every
        tenant may have. Raises NoRoom where there are too few."""
        self._check(tenant, most or self._per_tenant, count)
        self.num_open += count
        self._by_tenant[tenant] += count
        began = self._now()
        try:
            yield
        finally:
            self._mean_s += _WEIGHT * (self._now() - began - self._mean_s)
            self.num_open -= count
            self._by_tenant[tenant] -= count
            if not self._by_tenant[tenant]:
                del self._by_tenant[tenant]

    def _check(self, tenant: str, most: int, count: int) -> None:
        if count > 1 and count > min(most, self._max_requests):
            raise BadRequest(
                f"The request asks for {count} answers at once; "
                f"at most {min(most, self._max_requests)} are possible here.",
                param="n",
            )
        if self.num_open + count > self._max_requests:
            raise NoRoom(
                f"This router has {self._max_requests} requests under way and takes no more.",
                retry_after_s=self._next_place_s(self.num_open),
                code="server_overloaded",
            )
        if self._by_tenant[tenant] + count > most:
            whose = f"Tenant {tenant!r} has" if tenant else "Requests without a tenant have"
            raise NoRoom(
                f"{whose} {most} requests under way and may have no more.",
                retry_after_s=self._next_place_s(most),
                code="tenant_overloaded",
            )

    def _next_place_s(self, num_open: int) -> float:
        """When one of so many requests is likely to end: they take `_mean_s` each."""
        return min(MAX_RETRY_AFTER_S, max(1.0, self._mean_s / num_open))
