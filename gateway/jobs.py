"""Jobs: work that says which of its pieces may be done elsewhere, and goes on when they are done.

A generator yields a job and is resumed once the job is done; its result does not depend on where
or how fast that was. So a replay that does every job at once arrives, to the bit, at what the
running gateway did with a thread beside its event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Protocol, TypeAlias, TypeVar

__all__ = ["Job", "Work", "finished", "finished_aside"]

Made = TypeVar("Made")


class Job(Protocol):
    """A piece of work for any thread; whoever yielded it waits, so nothing else touches it."""

    @property
    def is_slow(self) -> bool:
        """Whether it would hold up an event loop."""
        ...

    def do(self) -> None:
        """Do it; what went wrong is for the one who yielded it to find."""
        ...


Work: TypeAlias = Generator[Job, None, Made]


def finished(work: Work[Made]) -> Made:
    """What a work gives, each job done as it comes."""
    try:
        while True:
            next(work).do()
    except StopIteration as done:
        made: Made = done.value
        return made


async def finished_aside(work: Work[Made]) -> Made:
    """The same, slow jobs in a thread while the event loop goes on."""
    try:
        while True:
            job = next(work)
            if job.is_slow:
                await asyncio.to_thread(job.do)
            else:
                job.do()
    except StopIteration as done:
        made: Made = done.value
        return made
