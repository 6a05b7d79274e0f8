"""How much memory does a router need while thousands of streams wait for clients that do not read?

    python bench/slow_readers.py [--streams N] [--json FILE]

Mock workers write answers of 1,000 tokens as fast as they can; every client asks and then reads
nothing. What nobody reads must wait in the workers: the router may hold a bounded piece of each
stream. Prints its resident memory per stream, once all streams stand still.
"""

import argparse
import resource
import socket
import time
from pathlib import Path

from mock_cluster import MockCluster, mock_cluster
from record import write_record
from router_load import through_router

TOKENS = 1000
RECEIVE_BYTES = 4096  # of a client's socket: as little as the kernel allows


def resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / (1 << 20)


def open_streams(url: str, count: int) -> list[socket.socket]:
    """Sends `count` requests and reads none of the answers."""
    side = through_router(url, TOKENS)
    host, _, port = url.removeprefix("http://").partition(":")
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        client.connect((host, int(port)))
        client.sendall(side.request(url))
        clients.append(client)
    return clients


def settled_mib(pid: int) -> float:
    """Once it has not grown by a percent for two seconds."""
    before = 0.0
    while (now := resident_mib(pid)) > before * 1.01:
        before = now
        time.sleep(2.0)
    return now


def measure(cluster: MockCluster, num_streams: int) -> dict[str, float]:
    """Prints each figure as it is found."""
    idle = resident_mib(cluster.router_pid)
    clients = open_streams(cluster.url, num_streams)
    full = settled_mib(cluster.router_pid)
    per_stream_kib = (full - idle) * 1024 / num_streams
    answer_kib = TOKENS * 0.2
    print(f"router without streams  {idle:8.0f} MiB")
    print(f"with {num_streams:6,} that stand  {full:8.0f} MiB, {per_stream_kib:.1f} KiB each")
    print(f"an answer has about     {answer_kib:8.0f} KiB")
    for client in clients:
        client.close()
    time.sleep(3.0)
    after = resident_mib(cluster.router_pid)
    print(f"after they have gone    {after:8.0f} MiB")
    return {
        "idle_mib": round(idle),
        "full_mib": round(full),
        "per_stream_kib": round(per_stream_kib, 1),
        "after_mib": round(after),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, default=9_500)  # two descriptors each, of 20,000
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with mock_cluster("least_loaded", options.streams) as cluster:
        figures = measure(cluster, options.streams)
    write_record(
        options.json,
        "router memory under slow readers",
        ["mserve", "starlette", "uvicorn", "uvloop"],
        streams=options.streams,
        **figures,
    )


if __name__ == "__main__":
    main()
