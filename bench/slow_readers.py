"""How much memory does a router need while thousands of streams wait for clients that do not read?

    python bench/slow_readers.py [--streams N] [--json FILE]

Mock workers write answers of 1,000 tokens as fast as they can; every client asks and then reads
nothing. What nobody reads must wait in the workers: the router may hold a bounded piece of each
stream. Prints its resident memory per stream, once all streams stand still.
"""

import argparse
import multiprocessing
import resource
import socket
import time
from pathlib import Path
from typing import Any

from record import write_record
from router_overhead import run_router, run_workers, through_router

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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, default=9_500)  # two descriptors each, of 20,000
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context = multiprocessing.get_context("spawn")
    worker_pipe, worker_end = context.Pipe()
    context.Process(target=run_workers, args=(worker_end,), daemon=True).start()
    router_pipe, router_end = context.Pipe()
    arguments = (router_end, worker_pipe.recv(), "least_loaded", options.streams)
    router: Any = context.Process(target=run_router, args=arguments, daemon=True)
    router.start()
    url, _ = router_pipe.recv()
    idle = resident_mib(router.pid)
    clients = open_streams(url, options.streams)
    full = settled_mib(router.pid)
    per_stream_kib = (full - idle) * 1024 / options.streams
    answer_kib = TOKENS * 0.2
    print(f"router without streams  {idle:8.0f} MiB")
    print(f"with {options.streams:6,} that stand  {full:8.0f} MiB, {per_stream_kib:.1f} KiB each")
    print(f"an answer has about     {answer_kib:8.0f} KiB")
    for client in clients:
        client.close()
    time.sleep(3.0)
    after = resident_mib(router.pid)
    print(f"after they have gone    {after:8.0f} MiB")
    router_pipe.send("stop")
    worker_pipe.send("stop")
    write_record(
        options.json,
        "router memory under slow readers",
        ["mserve", "starlette", "uvicorn", "uvloop"],
        streams=options.streams,
        idle_mib=round(idle),
        full_mib=round(full),
        per_stream_kib=round(per_stream_kib, 1),
        after_mib=round(after),
    )


if __name__ == "__main__":
    main()
