"""Who is connected to a UCX transport, and the greetings that make and end connections.

    we send first          HELLO(our address, our channel)  ->
                           <-  HELLO(its address, its channel, answers = our channel)
    both at once           two HELLOs that answer nothing cross; each establishes the other's end
    the peer starts anew   a HELLO that answers nothing, on an established connection: lost, anew
    we end it              BYE(our address, our channel)  ->

UCX does not tell a peer that we closed our endpoint, hence the BYE; it also answers what comes in
for a connection that is gone. Payloads and order are a connection's business.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from mserve.runtime.transport.ring import SlotRing
from mserve.runtime.transport.ucx_connection import Connection
from mserve.runtime.transport.ucx_endpoint import UcxFailure, UcxWorker
from mserve.runtime.transport.ucx_wire import (
    MAX_CHANNEL,
    Bye,
    Hello,
    MalformedMessage,
    control_tag,
    pack_greeting,
    unpack_greeting,
    worker_address,
)

GREETING_TAG: Final = control_tag(0, 0)
MAX_FORMER_CHANNELS: Final = 1024


class Peers:
    """The open connections, by peer and by our channel.

    `lose` is called for a connection that its peer has ended; it must `forget` it.
    """

    def __init__(
        self,
        worker: UcxWorker,
        address: bytes,
        receiving: SlotRing,
        lose: Callable[[Connection, str], None],
    ) -> None:
        self.failed: deque[Connection] = deque()
        """Connections that UCX gave up, for the transport to lose outside of UCX's progress."""
        self._worker = worker
        self._address = address
        self._receiving = receiving
        self._lose = lose
        self._by_peer: dict[bytes, Connection] = {}
        self._by_channel: dict[int, Connection] = {}
        self._former: dict[int, bytes] = {}  # our channel -> peer
        self._connecting: list[Connection] = []
        self._last_channel = 0

    def find(self, peer: bytes) -> Connection | None:
        return self._by_peer.get(peer)

    def find_channel(self, channel: int) -> Connection | None:
        return self._by_channel.get(channel)

    def all(self) -> list[Connection]:
        return list(self._by_peer.values())

    def meet(self, peer: bytes, answers: int = 0) -> Connection:
        """Connects and introduces us. Raises UcxFailure, MalformedMessage."""
        assert self._last_channel < MAX_CHANNEL, "a transport makes fewer than 2**24 connections"
        endpoint = self._worker.connect(worker_address(peer))
        self._last_channel += 1
        connection = Connection(peer, endpoint, self._last_channel, self._receiving)
        hello = Hello(self._address, connection.channel, answers)
        endpoint.send(pack_greeting(hello), GREETING_TAG)
        endpoint.watch(lambda: self.failed.append(connection))
        self._by_peer[peer] = connection
        self._by_channel[connection.channel] = connection
        self._connecting.append(connection)
        return connection

    def hear(self, message: bytearray) -> Connection | None:
        """Acts on a greeting; returns the connection it made or established, if any.

        Raises UcxFailure, MalformedMessage.
        """
        greeting = unpack_greeting(message)
        if isinstance(greeting, Bye):
            self._hear_bye(greeting)
            return None
        if greeting.answers:
            return self._hear_answer(greeting)
        return self._hear_hello(greeting)

    def forget(self, connection: Connection) -> None:
        del self._by_peer[connection.peer]
        del self._by_channel[connection.channel]
        self._former[connection.channel] = connection.peer
        if len(self._former) > MAX_FORMER_CHANNELS:
            del self._former[next(iter(self._former))]

    def part(self, connection: Connection) -> None:
        """Tells the peer that we are about to close.

        The connection carries the BYE after all else that was sent; where it is stuck behind
        that, an endpoint of its own does.
        """
        bye = pack_greeting(Bye(self._address, connection.channel))
        try:
            has_left = connection.send_bye(bye, GREETING_TAG)
        except UcxFailure:
            has_left = False
        if not has_left and not connection.endpoint.is_connecting:
            self._say_bye(connection.peer, connection.channel)

    def lose_silent(self) -> None:
        """Loses peers whose process does not even accept the connection."""
        connecting, self._connecting = self._connecting, []
        for connection in connecting:
            if connection.endpoint.is_overdue and connection.is_open:
                self._lose(connection, "the peer does not answer")
            elif connection.endpoint.is_connecting and connection.is_open:
                self._connecting.append(connection)

    def turn_away(self, channel: int) -> None:
        """Answers what comes in on a channel that is gone, once."""
        if channel in self._former:
            self._say_bye(self._former.pop(channel), channel)

    def _hear_hello(self, hello: Hello) -> Connection | None:
        connection = self._by_peer.get(hello.sender)
        if connection is not None and connection.peer_channel is not None:
            self._lose(connection, "the peer connected anew")
            connection = None
        if connection is None:
            connection = self.meet(hello.sender, answers=hello.channel)
        return self._establish(connection, hello)

    def _hear_answer(self, hello: Hello) -> Connection | None:
        connection = self._by_channel.get(hello.answers)
        if connection is None:
            self._say_bye(hello.sender, hello.answers)
            return None
        if connection.peer_channel is not None:
            # It crossed a HELLO of a connection that the peer has replaced since.
            self._lose(connection, "the peer connected anew")
            return None
        return self._establish(connection, hello)

    def _establish(self, connection: Connection, hello: Hello) -> Connection | None:
        try:
            connection.establish(hello.channel)
        except UcxFailure as failure:
            self._lose(connection, str(failure))
            return None
        return connection

    def _hear_bye(self, bye: Bye) -> None:
        connection = self._by_peer.get(bye.sender)
        if connection is not None and connection.peer_channel == bye.channel:
            self._lose(connection, "the peer closed the connection")

    def _say_bye(self, peer: bytes, channel: int) -> None:
        """Also a frozen peer hears it, once it thaws: the endpoint closes when it has left."""
        try:
            endpoint = self._worker.connect(worker_address(peer))
            endpoint.send(pack_greeting(Bye(self._address, channel)), GREETING_TAG)
        except (UcxFailure, MalformedMessage):
            return  # a peer that cannot be reached needs no farewell
        endpoint.close()
