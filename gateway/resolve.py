"""Resolve: a name that nobody answers for holds up nobody but who asks for it.

Look-ups block for as long as the name servers are silent, ten seconds and more; a pool of threads
that others use too is soon full of them, and whoever ends the pool waits for all. So each look-up
has a daemon thread of its own, and nobody waits for it longer than a deadline. Who asks meanwhile
for the same shares it. An answer that is late - the first of two name servers is down, and the
second is asked after five seconds - is kept for who asks next. Addresses that are numbers are no
look-up at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

__all__ = ["UNRESOLVED_HINT", "Names", "unresolved"]

# As long as the C library waits for one name server before it asks the next.
LOOK_UP_MAX_S = 5.0
# So many names that all are silent are a plant without a name server; whoever comes then waits in
# line. The service may have 64 threads in all (TasksMax).
LOOK_UPS_MAX = 24
# The longest pause between two attempts to connect, by default.
LATE_ANSWER_KEPT_S = 60.0

UNRESOLVED_HINT = "check the name server, or write the address in numbers"

Addresses: TypeAlias = list[tuple[Any, ...]]  # as socket.getaddrinfo gives them
Question: TypeAlias = tuple[Any, ...]  # host, port, family, type, proto, flags
Ask: TypeAlias = Callable[..., Addresses]


class Names:
    """Looks names up for one event loop."""

    def __init__(self, ask: Ask = socket.getaddrinfo) -> None:
        self._ask = ask
        self._answers: dict[Question, asyncio.Future[Addresses]] = {}  # under way, or late
        self._asking: dict[Question, int] = {}  # how many wait for it
        self._line: deque[Question] = deque()
        self._threads = 0

    async def look_up(
        self,
        host: str | bytes | None,
        port: str | int | None,
        family: int = 0,
        kind: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Addresses:
        """What socket.getaddrinfo says; socket.gaierror also where it says nothing in time."""
        with contextlib.suppress(socket.gaierror):  # it is no number
            numeric = flags | socket.AI_NUMERICHOST
            return list(socket.getaddrinfo(host, port, family, kind, proto, numeric))
        question = (host, port, family, kind, proto, flags)
        answer = self._answers.get(question) or self._begin(question)
        self._start_threads()
        self._asking[question] = self._asking.get(question, 0) + 1
        try:
            await asyncio.wait([answer], timeout=LOOK_UP_MAX_S)
        finally:
            self._asking[question] -= 1
            if not self._asking[question]:
                del self._asking[question]
        if not answer.done():
            raise socket.gaierror(socket.EAI_AGAIN, _late(host, LOOK_UP_MAX_S))
        self._forget(question, answer)
        return answer.result()

    def is_waiting(self, host: str) -> bool:
        """Whether a name is being looked up, and nobody has answered yet."""
        return any(
            question[0] == host and not answer.done() for question, answer in self._answers.items()
        )

    def _begin(self, question: Question) -> asyncio.Future[Addresses]:
        answer = asyncio.get_running_loop().create_future()
        self._answers[question] = answer
        self._line.append(question)
        return answer

    def _start_threads(self) -> None:
        loop = asyncio.get_running_loop()
        while self._line and self._threads < LOOK_UPS_MAX:
            question = self._line.popleft()
            name = f"name:{_text(question[0])}"
            # A daemon: the end of the process does not wait for a name server.
            thread = threading.Thread(
                target=self._work, args=(loop, question), name=name, daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # no thread is left: when one ends, or somebody asks again
                self._line.appendleft(question)
                return
            self._threads += 1

    def _work(self, loop: asyncio.AbstractEventLoop, question: Question) -> None:
        """One look-up, in a thread."""
        found: Addresses | Exception
        try:
            found = self._ask(*question)
        except socket.gaierror as error:
            reason = f"the name {_text(question[0])} was not resolved: {error.strerror}"
            found = socket.gaierror(error.errno, reason)
        except Exception as error:  # noqa: BLE001 - it is for the one who asked
            found = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(self._done, question, found)

    def _done(self, question: Question, found: Addresses | Exception) -> None:
        self._threads -= 1
        self._start_threads()
        answer = self._answers[question]
        if isinstance(found, Exception):
            answer.set_exception(found)
            answer.exception()  # nobody need be there any more
            self._forget(question, answer)  # a late refusal is no news: it is asked again
            return
        answer.set_result(found)
        if question in self._asking:
            self._forget(question, answer)
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(LATE_ANSWER_KEPT_S, self._forget, question, answer)

    def _forget(self, question: Question, answer: asyncio.Future[Addresses]) -> None:
        if self._answers.get(question) is answer:
            del self._answers[question]


def unresolved(host: str, waited_s: float) -> str:
    """What to say if who connects to a host still waits for its address; "" if not.

    As far as the running loop knows, of which only ours looks names up so.
    """
    names = getattr(asyncio.get_running_loop(), "names", None)
    return _late(host, waited_s) if isinstance(names, Names) and names.is_waiting(host) else ""


def _late(host: str | bytes | None, waited_s: float) -> str:
    return f"the name {_text(host)} was not resolved within {waited_s:g} s"


def _text(host: str | bytes | None) -> str:
    return host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
