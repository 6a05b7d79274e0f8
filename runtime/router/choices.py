"""Several answers to one HTTP request: `n` choices, or several prompts."""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from mserve.runtime.errors import RequestError
from mserve.runtime.messages import Sampling
from mserve.runtime.router.executor import Executor
from mserve.runtime.router.requests import GenerationRequest
from mserve.runtime.router.sinks import ChoiceSink


def sampling_of_choice(sampling: Sampling, number: int) -> Sampling:
    """Choices of one prompt have seeds of their own, so that they differ and can be repeated."""
    if number == 0 or sampling.seed is None:
        return sampling
    seed = (sampling.seed + number + (1 << 63)) % (1 << 64) - (1 << 63)
    return replace(sampling, seed=seed)


async def execute_all(
    executor: Executor,
    requests: Sequence[GenerationRequest],
    sinks: Sequence[ChoiceSink],
    per_prompt: int,
) -> None:
    """Runs every request into its sink; the first error ends them all.

    Of one prompt the first choice runs alone until its first token, for the others to find the
    prompt's KV cached.
    """
    if len(requests) == 1:
        await executor.execute(requests[0], sinks[0])
        return
    try:
        async with asyncio.TaskGroup() as group:
            for begin in range(0, len(requests), per_prompt):
                end = begin + per_prompt
                group.create_task(_execute(executor, requests[begin:end], sinks[begin:end]))
    except ExceptionGroup as errors:
        raise _first(errors) from None


async def _execute(
    executor: Executor, requests: Sequence[GenerationRequest], sinks: Sequence[ChoiceSink]
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(executor.execute(requests[0], sinks[0]))
        await sinks[0].has_begun.wait()
        for request, sink in zip(requests[1:], sinks[1:], strict=True):
            group.create_task(executor.execute(request, sink))


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """One error for the client; a fault of ours goes before a worker's."""
    refused, bugs = errors.split(RequestError)
    if bugs is not None or refused is None:
        return errors
    found: Exception = refused
    while isinstance(found, ExceptionGroup):
        found = found.exceptions[0]
    return found
