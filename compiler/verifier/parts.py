"""What a plan is for one of its workers alone: its own tasks and tickets, numbered anew.

Workers of different plans, shapes and strategies have the same part very often. Of positions only
the order matters to a worker, so they are numbered anew as well.
"""

from dataclasses import replace

from mserve.compiler.verifier.scene import Part, Scene, Sending, Task, places_of

SELF = 0  # the number of the worker itself; its peers follow as its tickets name them


def parts_of(scene: Scene) -> tuple[Part, ...]:
    """The parts of all workers of a scene, without repetitions."""
    return tuple(dict.fromkeys(_part(scene, worker) for worker in range(len(scene.workers))))


def _part(scene: Scene, worker: int) -> Part:
    tasks = [task for stage in scene.stages for task in stage if task.worker == worker]
    numbers = [n for n, t in enumerate(scene.transfers) if worker in (t.sender, t.receiver)]
    own = [scene.transfers[number] for number in numbers]
    renumbered = {number: at for at, number in enumerate(numbers)}
    places = places_of(own, tasks)
    peers = {worker: SELF}
    for transfer in own:
        peers.setdefault(transfer.sender, len(peers))
        peers.setdefault(transfer.receiver, len(peers))
    transfers = (
        replace(
            transfer.moved(places),
            name=f"t{at + 1}",
            sender=peers[transfer.sender],
            receiver=peers[transfer.receiver],
        )
        for at, transfer in enumerate(own)
    )
    return Part(tuple(transfers), tuple((_task(t, renumbered, places),) for t in tasks))


def _task(task: Task, numbers: dict[int, int], places: dict[int, int]) -> Task:
    return replace(
        task.moved(places),
        worker=SELF,
        receives=tuple(numbers[number] for number in task.receives),
        sends=tuple(Sending(tuple(numbers[t] for t in s.tickets)) for s in task.sends),
    )
