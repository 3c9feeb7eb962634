"""Every error this package raises on purpose, in one tree; each leaf says who must act.

    SluicegateError
    |-- ConfigError          the operator mends a file; carries every Problem with its place
    |-- RecordingInvalid     the operator mends a recording; carries every Problem with its place
    |-- ClockUntrusted       nobody: waited out
    |-- SourceError
    |   |-- SourceUnavailable   cannot connect now; retried with back-off
    |   |-- SourceLost          an open session ended; its tags go bad and it is reconnected
    |   |-- WireError           the peer broke its protocol; the bytes are counted, never believed
    |   `-- DeviceRefused       the device answered "no" (a Modbus exception code)
    |-- SpoolError
    |   |-- SpoolFull           the disk or the configured size is used up
    |   |-- SpoolDamaged        bytes on disk are not what was written; counted, the rest is served
    |   `-- SpoolLocked         another process has this directory
    |-- SinkError
    |   |-- SinkUnavailable     no answer, or a retryable one; the same bytes are sent again
    |   |-- SinkParked          credentials, bucket: a person must act; everything is kept
    |   |-- SinkTooLarge        the batch must be halved
    |   `-- SinkRejected        something in the batch is poison; found by bisection, dead-lettered
    `-- ModelError
        |-- BundleInvalid       the model folder is not what it says; the previous model stays
        `-- ModelFailed         a run raised or gave nonsense; scores are "not known"

A message names the place, what was found, and - in the hint - the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "BundleInvalid",
    "ClockUntrusted",
    "ConfigError",
    "DeviceRefused",
    "ModelError",
    "ModelFailed",
    "Problem",
    "RecordingInvalid",
    "SinkError",
    "SinkParked",
    "SinkRejected",
    "SinkTooLarge",
    "SinkUnavailable",
    "SluicegateError",
    "SourceError",
    "SourceLost",
    "SourceUnavailable",
    "SpoolDamaged",
    "SpoolError",
    "SpoolFull",
    "SpoolLocked",
    "WireError",
]


class SluicegateError(Exception):
    """Base of every error raised on purpose; `hint` is what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a configuration: where, what was found, what would be right."""

    file: str
    place: str  # "line 12", "row 7, column scan_class", "sink[0].url"
    found: str
    mend: str

    def __str__(self) -> str:
        return f"{self.file}: {self.place}: {self.found}. {self.mend}"


class ConfigError(SluicegateError):
    """The configuration cannot be used; `problems` lists everything found, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RecordingInvalid(SluicegateError):
    """A recording cannot be read; `problems` lists what was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ClockUntrusted(SluicegateError):
    """Wall time is not known yet."""


class SourceError(SluicegateError):
    """Something is wrong between the gateway and a device."""


class SourceUnavailable(SourceError):
    """A session could not be opened now; `retry_s_max` bounds the pause where trying is cheap."""

    def __init__(self, message: str, *, hint: str = "", retry_s_max: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_s_max = retry_s_max


class SourceLost(SourceError):
    """An open session ended."""


class WireError(SourceError):
    """A peer sent bytes its protocol does not allow; `kind` is the counter's label."""

    def __init__(self, message: str, *, kind: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class DeviceRefused(SourceError):
    """A Modbus exception response (Modbus Application Protocol 1.1b3, section 7)."""

    def __init__(self, *, unit_id: int, function: int, address: int, code: int, hint: str) -> None:
        super().__init__(
            f"unit {unit_id} refused function {function} at address {address}"
            f" with exception code {code}",
            hint=hint,
        )
        self.unit_id = unit_id
        self.function = function
        self.address = address
        self.code = code


class SpoolError(SluicegateError):
    """Something is wrong between the gateway and its disk."""


class SpoolFull(SpoolError):
    """There is no room for more."""


class SpoolDamaged(SpoolError):
    """Bytes on disk are not what was written."""


class SpoolLocked(SpoolError):
    """Another process writes to this spool."""


class SinkError(SluicegateError):
    """Something is wrong between the gateway and a destination."""


class SinkUnavailable(SinkError):
    """Try the same bytes again, not before `retry_after_s` when the server said so.

    `is_server_fault`: the server itself failed (5xx), which these very bytes may have caused.
    `is_slow`: it was there, but the answer took longer than the deadline; less may go faster.
    `is_cut`: it was there, and the connection ended before an answer; less may get through.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        is_server_fault: bool = False,
        is_slow: bool = False,
        is_cut: bool = False,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        self.is_server_fault = is_server_fault
        self.is_slow = is_slow
        self.is_cut = is_cut


class SinkParked(SinkError):
    """The destination refuses us, not our data: nothing is dropped, a person must act."""


class SinkTooLarge(SinkError):
    """The destination takes smaller batches only."""


class SinkRejected(SinkError):
    """The destination refuses something in this batch, for good; the message has its reason.

    `is_certain`: that it is about the data is known. Else it may be us that it refuses.
    """

    def __init__(self, message: str, *, is_certain: bool = True, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.is_certain = is_certain


class ModelError(SluicegateError):
    """Something is wrong with a model."""


class BundleInvalid(ModelError):
    """A model folder is not what it says it is; `problems` lists what was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


class ModelFailed(ModelError):
    """A model could not score."""
