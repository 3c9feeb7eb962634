"""ONNX Runtime, as far as the gateway needs it: one model, its arrays bound once, run over rows.

The only module that imports ONNX Runtime, and it does so when the first model is opened. Inputs
and outputs are numpy arrays that the session reads and writes in place (IO binding): a run
allocates nothing of ours, and costs 2-5 us less than handing arrays in and out (11 of 14 us at
8 rows). Rows are padded to a multiple of eight, because kernels treat a batch of one as another
problem: a row's score must not depend, to the bit, on how many rows run beside it.

A model of our own takes the windows as they are. One that somebody else exported may want them
flat, or the newest sample alone, or in float64, or so many rows at a time and no other number;
it may give its score as a column, as an integer, and no contributions. `Shape` says which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.errors import ModelFailed
from gateway.inference.manifest import Layout, Manifest

__all__ = ["Float32Array", "Runner"]

Float32Array: TypeAlias = npt.NDArray[np.float32]
AnyArray: TypeAlias = npt.NDArray[Any]

# Also the width of an AVX register in float32, so that no kernel runs its scalar tail.
ROWS_MULTIPLE = 8
# What lies between the nodes of a graph grows with the rows; so many at a time are as fast as a
# thousand (97 % of it at 512), and take a quarter of the memory.
CHUNK_ROWS_MAX = 256
# A model of a fixed batch larger than this is one of a data centre.
BATCH_MAX = 4096
_FLOAT = "tensor(float)"
_INPUT_TYPES = {_FLOAT: np.float32, "tensor(double)": np.float64}
_SCORE_TYPES = _INPUT_TYPES | {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Port:
    """An input or output of the session, as ONNX Runtime names, types and shapes it."""

    key: str  # of bundle.toml
    name: str
    kind: str
    shape: tuple[int | str | None, ...]

    def differs(self, row: tuple[int, ...], *, kinds: Any, any_batch: bool) -> str:
        """What it is, if that is not (rows, *row) of one of the types; nothing if it is."""
        fits = (
            self.kind in kinds
            and len(self.shape) == 1 + len(row)
            and (any_batch or not isinstance(self.shape[0], int))
            and all(
                found == wanted or (any_batch and not isinstance(found, int))
                for found, wanted in zip(self.shape[1:], row, strict=True)
            )
        )
        return "" if fits else f"{self.name!r} is {self.kind} of shape {list(self.shape)}"


class Runner:
    """A loaded model. Raises ModelFailed when ONNX Runtime does not take it, or a run fails."""

    is_aside = False

    def __init__(
        self,
        model: bytes,
        *,
        input_name: str,
        score: str,
        contributions: str,
        column: int = 0,
        layout: Layout = Layout.WINDOW,
        strict: bool = True,
    ) -> None:
        """`strict` takes what format 1 has, and nothing that would have to be converted."""
        import onnxruntime  # noqa: PLC0415 - loaded only by those who use a model

        self._ort = onnxruntime
        self._names = (input_name, score, contributions)
        self._column = column
        self._layout = layout
        self._strict = strict
        options = onnxruntime.SessionOptions()
        # One core of four is the model's; a spinning pool would take the others from the scans.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The arena gives nothing here (50 us a run of 64 rows with and without) and keeps memory.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4  # what matters comes as an exception
        try:
            # There is nothing to fall back to; trying would print to standard output.
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
            self._ports = (self._inputs(), self._outputs())  # names may be no text at all
        except Exception as error:  # its exceptions have no base class but this
            raise ModelFailed(f"ONNX Runtime refuses it: {_words(error)}") from error
        self._binding: Any = None
        self._chunk = 0  # rows of one call; all of them unless the model's batch is fixed
        self._input: AnyArray = np.zeros(0)
        self._output: AnyArray = np.zeros(0)
        self._shares: AnyArray | None = None  # contributions, as the model gives them
        self.windows: Float32Array = np.zeros((0, 0, 0), np.float32)
        self._scores: Float32Array = np.zeros(0, np.float32)
        self._contributions: Float32Array | None = None

    @classmethod
    def of(cls, model: bytes, manifest: Manifest) -> Runner:
        """The model of a manifest; `interface` tells whether it is."""
        return cls(
            model,
            input_name=manifest.input,
            score=manifest.output.score,
            contributions=manifest.output.contributions,
            column=manifest.output.column,
            layout=manifest.layout,
            strict=manifest.format == 1,
        )

    def interface(self, window: int, features: int) -> list[tuple[str, str, str]]:
        """What differs from the promised inputs and outputs: (key, found, mend)."""
        _, score, contributions = self._names
        any_batch = not self._strict
        found = self._input_problems(window, features)
        outputs = {port.name: port for port in self._ports[1]}
        for key, output in (("output.score", score), ("output.contributions", contributions)):
            if output and output not in outputs:
                what = f"the model's outputs are {sorted(outputs)}"
                found.append((key, what, f"name one {output!r}, or write its name for {key}"))
        if score in outputs:
            found += self._score_problems(outputs[score])
        if contributions in outputs:
            kinds = _INPUT_TYPES if any_batch else (_FLOAT,)
            differs = outputs[contributions].differs((features,), kinds=kinds, any_batch=any_batch)
            if differs:
                mend = f"export it as {_FLOAT} of shape ['rows', {features}], rows being dynamic"
                found.append(("output.contributions", differs, mend))
        return found

    def reserve(self, rows: int, window: int, features: int) -> None:
        """Make room for at least `rows` windows; what `windows` held is gone."""
        batch = self._batch()
        if batch is None:
            chunks = max(1, -(-rows // CHUNK_ROWS_MAX))
            self._chunk = -(-rows // (chunks * ROWS_MULTIPLE)) * ROWS_MULTIPLE
        else:
            chunks, self._chunk = -(-rows // batch), batch
        padded = chunks * self._chunk
        name, score, contributions = self._names
        self.windows = np.zeros((padded, window, features), np.float32)
        self._scores = np.zeros(padded, np.float32)
        self._contributions = np.zeros((padded, features), np.float32) if contributions else None
        kind = _INPUT_TYPES[self._ports[0][0].kind]
        self._input = np.zeros((self._chunk, *self._row(window, features)), kind)
        if chunks == 1 and batch is None and kind is np.float32 and self._layout is not Layout.LAST:
            self._input = self.windows.reshape(self._input.shape)  # it reads what we write
        outputs = {port.name: port for port in self._ports[1]}
        columns = [width if isinstance(width, int) else 1 for width in outputs[score].shape[1:]]
        self._output = np.zeros((self._chunk, *columns), _SCORE_TYPES[outputs[score].kind])
        of_numpy = self._ort.OrtValue.ortvalue_from_numpy  # shares the array's memory on a CPU
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(name, of_numpy(self._input))
        self._binding.bind_ortvalue_output(score, of_numpy(self._output))
        self._shares = None
        if contributions:
            kind = _INPUT_TYPES[outputs[contributions].kind]
            self._shares = np.zeros((self._chunk, features), kind)
            self._binding.bind_ortvalue_output(contributions, of_numpy(self._shares))
        if self._chunk == padded:  # then it also writes where we read
            if self._output.dtype == np.float32 and self._output.ndim == 1:
                self._scores = self._output
            if self._shares is not None and self._shares.dtype == np.float32:
                self._contributions = self._shares

    def run(self) -> tuple[Float32Array, Float32Array | None]:
        """Scores (rows,) and contributions (rows, features) of `windows`; valid until the next.

        Without contributions where the model gives none.
        """
        try:
            if self._contributions is self._shares and self._scores is self._output:
                self._copy_in(0)
                self._session.run_with_iobinding(self._binding)
            else:
                for first in range(0, len(self.windows), self._chunk):
                    self._copy_in(first)
                    self._session.run_with_iobinding(self._binding)
                    self._copy_out(first)
        except Exception as error:  # its exceptions have no base class but this
            raise ModelFailed(f"the run failed: {_words(error)}") from error
        return self._scores, self._contributions

    def close(self) -> None:
        """Let go of the session."""
        self._binding = self._session = None

    def _copy_in(self, first: int) -> None:
        if self._input.base is self.windows or self._input is self.windows:
            return
        rows = self.windows[first : first + self._chunk]
        taken = rows[:, -1] if self._layout is Layout.LAST else rows.reshape(self._input.shape)
        np.copyto(self._input, taken)

    def _copy_out(self, first: int) -> None:
        rows = slice(first, first + self._chunk)
        score = self._output.reshape(self._chunk, -1)[:, self._column]
        with np.errstate(over="ignore"):  # beyond float32 is infinite, which is no score
            np.copyto(self._scores[rows], score, casting="unsafe")
            if self._contributions is not None:
                assert self._shares is not None
                np.copyto(self._contributions[rows], self._shares, casting="unsafe")

    def _input_problems(self, window: int, features: int) -> list[tuple[str, str, str]]:
        name, any_batch = self._names[0], not self._strict
        inputs = {port.name: port for port in self._ports[0]}
        if list(inputs) != [name]:
            return [("input", f"the model's inputs are {list(inputs)}", f"make it [{name!r}]")]
        row = self._row(window, features)
        kinds = _INPUT_TYPES if any_batch else (_FLOAT,)
        differs = inputs[name].differs(row, kinds=kinds, any_batch=any_batch)
        if differs:
            mend = f"export it as {_FLOAT} of shape {['rows', *row]}, rows being dynamic"
            if any_batch:
                mend += f", or say layout = {' or '.join(map(_quoted, Layout))} as it wants them"
            return [("input", differs, mend)]
        batch = self._batch()
        if batch is not None and not 1 <= batch <= BATCH_MAX:
            mend = f"export it for at most {BATCH_MAX} rows, or any number of them"
            return [("input", f"{name!r} takes {batch} rows at a time", mend)]
        return []

    def _score_problems(self, port: _Port) -> list[tuple[str, str, str]]:
        """What is wrong with the score: one number a row, or a row of columns."""
        if self._strict:
            differs = port.differs((), kinds=(_FLOAT,), any_batch=False)
            mend = f"export it as {_FLOAT} of shape ['rows'], rows being dynamic"
            return [(port.key, differs, mend)] if differs else []
        flat = not port.differs((), kinds=_SCORE_TYPES, any_batch=True)
        width = port.shape[1] if len(port.shape) > 1 and isinstance(port.shape[1], int) else 1
        if flat or not port.differs((width,), kinds=_SCORE_TYPES, any_batch=True):
            columns = 1 if flat else width
            if self._column < columns:
                return []
            found = f"{port.name!r} has {columns} columns, counted from 0"
            return [("output.column", found, f"write one below {columns}")]
        differs = f"{port.name!r} is {port.kind} of shape {list(port.shape)}"
        kinds = ", ".join(_SCORE_TYPES)
        return [(port.key, differs, f"export it as ['rows'] or ['rows', columns] of {kinds}")]

    def _row(self, window: int, features: int) -> tuple[int, ...]:
        """The shape of one row of the input."""
        return {
            Layout.WINDOW: (window, features),
            Layout.FLAT: (window * features,),
            Layout.LAST: (features,),
        }[self._layout]

    def _batch(self) -> int | None:
        """How many rows the model takes at a time; None for any number."""
        first = self._ports[0][0].shape[0]
        return first if isinstance(first, int) else None

    def _inputs(self) -> list[_Port]:
        return [
            _Port(key="input", name=port.name, kind=port.type, shape=tuple(port.shape))
            for port in self._session.get_inputs()
        ]

    def _outputs(self) -> list[_Port]:
        return [
            _Port(key="output.score", name=port.name, kind=port.type, shape=tuple(port.shape or ()))
            for port in self._session.get_outputs()
        ]


def _quoted(layout: Layout) -> str:
    return f'"{layout}"'


# Where in its C++ it noticed: "[ONNXRuntimeError] : 1 : FAIL : /a/b.h:46 void f(const T&, int) ".
_WHERE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (?:/\S+:\d+ .*?[)>]\s+(?=[A-Z]))?")
_NEWER = re.compile(r"is till opset (\d+)|max supported IR version: (\d+)")


def _words(error: Exception) -> str:
    """The error's own words, in a line that a log may hold; what is too new goes first."""
    text = _WHERE.sub("", " ".join(str(error).split()))
    newer = _NEWER.search(text)
    if newer is not None:
        what = f"opset {newer[1]}" if newer[1] else f"IR version {newer[2]}"
        return f"the file is newer than this gateway, which runs up to {what}. {text}"[:400]
    return text[:300]
