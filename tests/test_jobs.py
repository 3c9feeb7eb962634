from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import pytest

from gateway.jobs import Work, finished, finished_aside


@dataclass
class Job:
    is_slow: bool = False
    thread: threading.Thread | None = None
    wait_for: threading.Event = field(default_factory=threading.Event)

    def do(self) -> None:
        if self.is_slow:
            assert self.wait_for.wait(30)
        self.thread = threading.current_thread()


def work(*jobs: Job) -> Work[list[str]]:
    done = []
    for job in jobs:
        yield job
        assert job.thread is not None
        done.append(job.thread.name)
    return done


def test_at_once_every_job_is_done_here() -> None:
    assert finished(work(Job(), Job())) == [threading.current_thread().name] * 2


async def test_a_slow_job_leaves_the_loop_free_and_a_quick_one_does_not_leave_it() -> None:
    quick, slow = Job(), Job(is_slow=True)
    task = asyncio.create_task(finished_aside(work(quick, slow, Job())))
    for _ in range(100):  # the loop turns while the slow job waits for us
        await asyncio.sleep(0)
    assert quick.thread is not None
    assert not task.done()
    slow.wait_for.set()
    first, second, third = await task
    assert first == third == threading.current_thread().name != second


async def test_what_goes_wrong_in_the_work_is_raised_to_the_caller() -> None:
    def broken() -> Work[None]:
        yield Job()
        raise LookupError

    with pytest.raises(LookupError):
        await finished_aside(broken())
