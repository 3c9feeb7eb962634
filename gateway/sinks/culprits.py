"""Culprits: what in a batch is refused for good, found by sending parts of it.

The search (`search`) goes from the front: what is accepted is done, what is refused is halved, and
behind a bad point all the rest is tried at once. So good points are sent once, in few requests.

That a server fails says little about the data: a proxy answers 502 for as long as its database is
down. So a point on which it fails goes to the dead letters only when it is refused again and again
while the server takes another point (sent again, which is harmless) each time. Without that proof
all is kept. The same holds for a refusal that does not say what of the data it is about, such as
400 to whoever speaks HTTP to a port for HTTPS. In a batch of several points the search is nearly a
proof, and the lone point is asked but once more. Not so where what was refused has been taken
later: refusals come from something else then, such as a balancer with one server that is ill.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from gateway.errors import SinkError, SinkRejected, SinkTooLarge, SinkUnavailable
from gateway.frame import EMPTY_FRAME, Frame
from gateway.sinks.search import Proof, Search, points_of
from gateway.tag import Tags

__all__ = ["SAME_FAILURES_MAX", "SLOW_SAMPLES_MIN", "Culprits", "Refusal", "Sender"]

# A server that fails on the same bytes this often may be failing because of them ...
SAME_FAILURES_MAX = 8
# ... and on a point by itself, this often.
LONE_FAILURES_MAX = 3
# A batch that misses its deadline may be too much for the link; this little is not.
SLOW_SAMPLES_MIN = 100
# So often a point is refused, and another one taken, before it is a dead letter, where the refusal
# does not say that it is about the data; more where what was refused has been taken before.
TRIALS_MIN = 2
DOUBT_MAX = 5


class Sender(Protocol):
    """What a search needs of a delivery."""

    async def send(self, frame: Frame, patience: int, *, quiet: bool = False) -> SinkError | None:
        """None once a frame is stored; else why it will not do to send it again as it is."""
        ...

    async def takes(self, frame: Frame) -> bool:
        """Whether the server takes these now."""
        ...

    async def takes_accepted(self) -> bool | None:
        """Whether the server takes once more what it took last; None if it has taken nothing."""
        ...

    async def bury(self, frame: Frame, reasons: Mapping[int, str]) -> None:
        """Make dead letters of rows."""
        ...

    def shrink(self, samples: float, samples_min: int) -> None:
        """Send smaller batches from now on."""
        ...


class Refusal(NamedTuple):
    """Nothing at all is taken."""

    trouble: SinkError
    left: Frame  # what is neither stored nor buried


class Culprits:
    """Of one delivery."""

    def __init__(self, sender: Sender, table: Tags) -> None:
        self._sender = sender
        self._table = table
        self._doubt = 0  # whether what is refused is refused for what it is

    def forget(self) -> None:
        """Believe the server's refusals a little more: it has been well for long."""
        self._doubt = max(0, self._doubt - 1)

    async def find(self, frame: Frame, trouble: SinkError | None) -> Refusal | None:
        """Have every row of a frame that was refused stored or buried.

        Else, where nothing at all is taken, what was said to those left, and to others.
        """
        search, proof = Search(points_of(frame, self._table)), Proof()
        part = frame
        while True:
            proof.see(trouble)
            is_uncertain = isinstance(trouble, SinkRejected) and not trouble.is_certain
            is_proved = not is_uncertain or await self._is_proved(proof, frame, search)
            if not is_proved or not await self._learn(search, trouble, frame, part, proof):
                assert trouble is not None
                return Refusal(trouble, proof.left(frame.where(search.rows_left)))
            if search.is_done and not await self._is_proved(proof, frame, search):
                return Refusal(proof.suspects[-1][1], proof.left(EMPTY_FRAME))
            if search.is_done:
                if proof.has_doubted and not proof.suspects:
                    self._doubt += self._doubt < DOUBT_MAX  # it has taken all that it refused
                return await self._sentence(proof.suspects)
            part, patience = frame.where(search.rows), SAME_FAILURES_MAX
            if search.is_narrowing:
                patience = LONE_FAILURES_MAX if search.is_lone else 1
            trouble = await self._sender.send(part, patience, quiet=search.is_narrowing)

    async def _sentence(self, suspects: list[tuple[Frame, SinkError]]) -> Refusal | None:
        """Bury what a search has found; where refusals do not hold, each is judged anew."""
        while suspects:
            part, refusal = suspects[0]
            if self._doubt:
                alone = Search(points_of(part, self._table))
                is_judged = await self._judge(alone, refusal, part, part)
                if not (is_judged and alone.is_done):
                    return Refusal(refusal, Frame.concatenate([part for part, _ in suspects]))
            else:
                await self._convict(part, refusal)
            suspects = suspects[1:]
        return None

    async def _learn(
        self,
        search: Search,
        trouble: SinkError | None,
        frame: Frame,
        part: Frame,
        proof: Proof,
    ) -> bool:
        """Tell the search what became of `part`; False where nothing at all is taken."""
        match trouble:
            case None:
                search.done()
            case SinkUnavailable(is_slow=True):
                self._sender.shrink(len(part) / 2, SLOW_SAMPLES_MIN)
                search.too_many()
            case SinkTooLarge() | SinkUnavailable(is_cut=True) if not search.is_lone:
                self._sender.shrink(len(part) / 2, 1)
                search.too_many()
            case SinkRejected(is_certain=True) if search.is_lone:
                await self._convict(part, trouble)
                search.done()
            case SinkRejected() if search.is_lone and not (self._doubt or search.is_only):
                again = await self._sender.send(part, 1, quiet=True)
                if isinstance(again, SinkRejected):
                    proof.suspect(part, again)
                else:
                    self._doubt += 1
                if again is None or isinstance(again, SinkRejected):
                    search.done()
            case _ if search.is_lone:
                return await self._judge(search, trouble, frame, part)
            case _:
                search.refused()
        return True

    async def _judge(self, search: Search, trouble: SinkError, frame: Frame, part: Frame) -> bool:
        """Have a lone point stored or buried that was refused without certainty that it is why.

        A dead letter must be refused again and again while another point is taken each time. False
        where no other is.
        """
        for _ in range(TRIALS_MIN * (1 + self._doubt)):
            if not await self._takes_others(frame, search, tries=1 + self._doubt):
                if not isinstance(trouble, SinkUnavailable):
                    return False
                search.acquitted()
                return True
            again = await self._sender.send(part, 1, quiet=True)
            if again is None:
                self._doubt += self._doubt < DOUBT_MAX
                search.done()
                return True
            trouble = again
        await self._convict(part, trouble)
        search.done()
        return True

    async def _convict(self, part: Frame, refusal: SinkError) -> None:
        await self._sender.bury(part, dict.fromkeys(range(len(part)), refusal.message))

    async def _takes_others(self, frame: Frame, search: Search, *, tries: int = 1) -> bool:
        """Whether the server takes points now: what it took last, or what is behind the suspect."""
        for _ in range(tries):
            takes = await self._sender.takes_accepted()
            if takes:
                return True
            for rows in search.rows_behind() if takes is None else ():
                if await self._sender.takes(frame.where(rows)):
                    return True
        return False

    async def _is_proved(self, proof: Proof, frame: Frame, search: Search) -> bool:
        """Whether the server takes others than the suspects, if there are any."""
        if not proof.refused or (proof.is_given and not search.is_done):
            return True
        is_taken = await self._takes_others(frame, search)
        if is_taken:
            proof.see(None)
        return is_taken
