"""Load that a router has sent out: booked at dispatch, given back as tokens come."""

import asyncio
from typing import Any


def test_load_is_reserved_at_dispatch_and_shrinks_with_every_token(kit: Any) -> None:
    async def main() -> Any:
        cluster = kit.cluster("workers-0")
        router = kit.router(cluster, kit.Strategy(kit.generate_on_first))
        sink = kit.Collected()
        seen: list[tuple[float, float]] = []

        def look() -> None:
            load = router.reservations.of("workers-0")
            seen.append((load.prefill_s, round(load.seconds - load.prefill_s, 6)))

        sink.on_tokens = look
        sink.placed = lambda *placed: look()
        async with router.running():
            await router.executor.execute(kit.request(max_tokens=4), sink)
        return seen, kit.idle(router)

    seen, idle = asyncio.run(main())
    assert seen == [(0, 0), (0, 0.03), (0, 0.02), (0, 0.01), (0, 0)]
    assert idle
