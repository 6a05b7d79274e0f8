"""The connection to Redis under cancels, which its client library loses."""

import asyncio
from contextlib import suppress

import pytest

from mserve.runtime.cluster.redis_connection import RedisConnection, Script
from mserve.runtime.errors import Unavailable

ONE = Script("return 1")


@pytest.mark.parametrize("num_turns", range(12))
def test_who_asks_again_and_again_ends_when_cancelled(
    redis_url: str, cluster: str, num_turns: int
) -> None:
    """At every moment of a call: while it is sent, while Redis answers, while the answer is read."""

    async def main() -> None:
        connection = await RedisConnection.open(redis_url, cluster)

        async def ask() -> None:
            while True:
                with suppress(Unavailable):
                    await connection.run(ONE)

        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.005)
        for _ in range(num_turns):
            await asyncio.sleep(0)
        asking.cancel()
        done, _ = await asyncio.wait([asking], timeout=0.3)
        while not asking.done():
            asking.cancel()
            await asyncio.sleep(0)
        assert done, "the cancel was lost"
        assert await connection.run(ONE) == 1, "the connection goes on"
        await connection.close()

    asyncio.run(main())


@pytest.mark.parametrize("num_turns", range(1, 14, 2))
def test_a_cancel_while_it_is_opened_is_one(redis_url: str, cluster: str, num_turns: int) -> None:
    async def main() -> None:
        opening = asyncio.create_task(RedisConnection.open(redis_url, cluster))
        for _ in range(num_turns):
            await asyncio.sleep(0)
        if opening.done():
            await opening.result().close()
            return
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()

    asyncio.run(main())


def test_a_time_out_around_a_call_is_one(redis_url: str, cluster: str) -> None:
    async def main() -> None:
        connection = await RedisConnection.open(redis_url, cluster)
        slow = Script("local n = 0; while n < 2e7 do n = n + 1 end; return n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await connection.run(slow)
        await connection.close()

    asyncio.run(main())
