"""A virtual worker: the real service, engine link, plan calls and announcer, on a virtual engine.

It can be killed, frozen as a whole or in its engine process only, thawed, and drained. Knows neither
the router nor what becomes of its answers.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from mserve.runtime.cluster.membership import KvLayout, WorkerStats
from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.engine import Engine
from mserve.runtime.errors import Gone
from mserve.runtime.simulator.clock import EPOCH_S, VirtualClock
from mserve.runtime.simulator.driver import EngineDriver, Poison
from mserve.runtime.simulator.loop import VirtualLoop
from mserve.runtime.simulator.membership import virtual_info
from mserve.runtime.simulator.model import CELL_BYTES, NUM_LAYERS, HashedModel
from mserve.runtime.simulator.network import VirtualNetwork
from mserve.runtime.simulator.store import Gate, Store, StoreIndex, StoreRegistry
from mserve.runtime.tokenizer import StreamDecoder
from mserve.runtime.worker import ipc
from mserve.runtime.worker.announcer import Announcer
from mserve.runtime.worker.app import WorkerApp
from mserve.runtime.worker.engine_link import EngineLink
from mserve.runtime.worker.pulse import FROZEN_S
from mserve.runtime.worker.service import WorkerService

LAYOUT = KvLayout("hashed", "hashed", "uint64", NUM_LAYERS, 1, 1)


class WordDecoder(StreamDecoder):
    """The text of a token is its number and a space."""

    def __init__(self) -> None:
        """Without a vocabulary."""

    def push(self, ids: Iterable[int]) -> str:
        return "".join([f"{token} " for token in ids])

    @property
    def pending(self) -> bool:
        return False

    def flush(self) -> str:
        return ""


class VirtualLink(EngineLink):
    """An engine link whose socket is a queue."""

    def __init__(self, on_blocks: Callable[[ipc.Blocks], None]) -> None:
        super().__init__(on_blocks)
        self._post: Callable[[ipc.Command], None] | None = None

    def connect(self, post: Callable[[ipc.Command], None]) -> None:
        self._post = post

    def send(self, command: ipc.Command) -> None:
        if self._post is None or self.closed.is_set():
            raise self.lost()
        self._post(command)

    def take(self, events: list[ipc.Event]) -> None:
        for event in events:
            self._dispatch(event)

    def fall_silent(self, silence: str) -> None:
        self.silence = silence
        if silence:
            self._interrupt()

    def lose(self) -> None:
        """The engine process is gone."""
        self._post = None
        self.closed.set()
        self._interrupt()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all workers of a cluster share."""

    loop: VirtualLoop
    clock: VirtualClock
    network: VirtualNetwork
    store: Store
    poisons: Poison


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    name: str
    engine: EngineConfig
    cost: CostProfile
    lease_s: float = 10.0

    @property
    def pool(self) -> str:
        return self.name.rpartition("-")[0]


class VirtualWorker:
    """One incarnation, from its start to its death."""

    def __init__(self, spec: WorkerSpec, number: int, around: Surroundings) -> None:
        self.spec = spec
        self._around = around
        self._held: list[Callable[[], None]] = []  # what reaches a frozen process
        self._on_death: list[Callable[[bool], None]] = []
        self.gate = Gate()
        self.is_frozen = False
        self.is_dead = False
        transport = around.network.join(lambda: self.driver.wake())
        self.transport = transport
        self.info = virtual_info(
            spec.name,
            spec.pool,
            number,
            transport.address,
            layout=LAYOUT,
            engine=spec.engine,
            cost=spec.cost,
        )
        self.engine = Engine(spec.engine)
        config = spec.engine
        model = HashedModel(config.num_pages, config.page_size, host_pages=config.host_pages)
        self.service = WorkerService(
            self.engine,
            model,
            transport,
            worker=spec.name,
            incarnation=self.info.incarnation,
            fingerprint=LAYOUT.fingerprint,
            unix_s=lambda now: now + EPOCH_S,
            lease_s=spec.lease_s,
            checksum_kv=True,
        )
        self.link = VirtualLink(lambda blocks: self.announcer.blocks_changed(blocks.events))
        self.driver = EngineDriver(
            self.service, model, around.clock, spec.cost, self._hear, around.poisons
        )
        self.link.connect(self.driver.post)
        self.draining = asyncio.Event()
        self.app = WorkerApp(self.link, spec.name, {}, lambda before: WordDecoder(), self.draining)
        self.announcer = Announcer(
            self.info,
            StoreRegistry(around.store, around.clock, self.gate),
            StoreIndex(around.store, self.gate),
            snapshot=self._snapshot,
            stats=self._stats,
            greet=lambda peers: self.link.send(ipc.Greet(peers)),
        )
        self._membership: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Returns when the registry knows the worker. Raises what the registry raises."""
        await self.announcer.join()
        if not self.is_dead:
            self._membership = self._around.loop.start_daemon(self._stay(), self.spec.name)

    # --- what a connection asks ----------------------------------------------------------------

    def reach(self, call: Callable[[], None]) -> None:
        """Something arrives at the HTTP process: now, or once it is thawed."""
        if self.is_frozen:
            self._held.append(call)
        elif not self.is_dead:
            call()

    def on_death(self, call: Callable[[bool], None]) -> None:
        """Calls it, once, with whether what was sent just before is lost."""
        self._on_death.append(call)

    def forget_death(self, call: Callable[[bool], None]) -> None:
        self._on_death.remove(call)

    # --- faults --------------------------------------------------------------------------------

    def kill(self, *, lose_in_flight: bool = True) -> None:
        """Both processes die at once."""
        if self.is_dead:
            return
        self.is_dead = True
        self.driver.kill()
        if self._membership is not None:
            self._membership.cancel()
        self._around.network.kill(self.info.transport_address, lose_in_flight=lose_in_flight)
        for call in list(self._on_death):
            call(lose_in_flight)
        self.link.lose()

    def freeze(self) -> None:
        """Both processes stop, as by SIGSTOP."""
        self.is_frozen = True
        self.driver.freeze()
        self.gate.close()

    def freeze_engine(self) -> None:
        """Only the engine process stops; the other one notices after a while."""
        self.driver.freeze()
        self._around.clock.call_after(FROZEN_S, self._notice_silence)

    def thaw(self) -> None:
        self.is_frozen = False
        if self.is_dead:
            return
        self.gate.open()
        held, self._held = self._held, []
        for call in held:
            call()
        self.driver.thaw()
        if self.link.silence:
            self.link.fall_silent("")
            self.announcer.stats_changed()

    def _notice_silence(self) -> None:
        if self.driver.is_frozen and not self.is_frozen and not self.is_dead:
            self.link.fall_silent("is frozen")
            self.announcer.stats_changed()

    # --- inside --------------------------------------------------------------------------------

    def _hear(self, events: list[ipc.Event]) -> None:
        """What the engine process says reaches the other one a moment later."""
        self._around.clock.call_soon(lambda: self.reach(lambda: self.link.take(events)))

    async def _stay(self) -> None:
        try:
            await self.announcer.run()
        except Gone:  # a successor has the name: this one must end
            self.kill()

    def _stats(self) -> WorkerStats | None:
        if self.link.silence:
            return None
        return replace(self.service.stats().stats, draining=self.draining.is_set())

    async def _snapshot(self) -> ipc.Snapshot:
        answer = await self.link.ask(ipc.Resync)
        assert isinstance(answer, ipc.Snapshot), "Resync is answered by a snapshot"
        return answer


def cost_profile(
    prefill_token_s: float = 1e-4, decode_base_s: float = 2e-3, bytes_per_s: float = 10e9
) -> CostProfile:
    """Of the hashed model, whose steps take what this says."""
    return CostProfile(
        prefill_base_s=decode_base_s / 2,
        prefill_token_s=prefill_token_s,
        prefill_pair_s=0.0,
        decode_base_s=decode_base_s,
        decode_sequence_s=decode_base_s / 20,
        transfer_base_s=1e-4,
        transfer_bytes_per_s=bytes_per_s,
        kv_bytes_per_token=NUM_LAYERS * CELL_BYTES,
    )
