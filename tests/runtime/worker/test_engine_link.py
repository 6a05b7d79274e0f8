"""The HTTP process's end of the socket survives those who stop waiting."""

import asyncio
from typing import Any

from mserve.runtime.worker import ipc
from mserve.runtime.worker.engine_link import EngineLink


class Written:
    def write(self, data: bytes) -> None:
        pass


def test_an_answer_for_someone_who_has_left_is_dropped() -> None:
    async def main() -> Any:
        link = EngineLink(lambda blocks: None)
        link._writer = Written()  # type: ignore[assignment]
        asking = asyncio.create_task(link.ask_json(ipc.State))
        await asyncio.sleep(0)
        asking.cancel()
        link._dispatch(ipc.Reply(1, b"{}"))
        again = asyncio.create_task(link.ask_json(ipc.State))
        await asyncio.sleep(0)
        link._dispatch(ipc.Reply(2, b'{"a": 1}'))
        return await again

    assert asyncio.run(main()) == {"a": 1}
