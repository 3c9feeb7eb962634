"""ONNX Runtime, as far as the gateway needs it: one model, its arrays bound once, run over rows.

The only module that imports ONNX Runtime, and it does so when the first model is opened. Inputs
and outputs are numpy arrays that the session reads and writes in place (IO binding): a run
allocates nothing of ours, and costs 2-5 us less than handing arrays in and out (11 of 14 us at
8 rows). Rows are padded to a multiple of eight, because kernels treat a batch of one as another
problem: a row's score must not depend, to the bit, on how many rows run beside it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.errors import ModelFailed

__all__ = ["Float32Array", "Runner"]

Float32Array: TypeAlias = npt.NDArray[np.float32]

# Also the width of an AVX register in float32, so that no kernel runs its scalar tail.
ROWS_MULTIPLE = 8
_FLOAT = "tensor(float)"


class Runner:
    """A loaded model. Raises ModelFailed when ONNX Runtime does not take it, or a run fails."""

    def __init__(self, model: bytes, *, input_name: str, score: str, contributions: str) -> None:
        import onnxruntime  # noqa: PLC0415 - loaded only by those who use a model

        self._ort = onnxruntime
        self._names = (input_name, score, contributions)
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
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no base class but this
            raise ModelFailed(f"ONNX Runtime refuses it: {_words(error)}") from error
        self._binding: Any = None
        self.windows: Float32Array = np.zeros((0, 0, 0), np.float32)
        self._scores: Float32Array = np.zeros(0, np.float32)
        self._contributions: Float32Array = np.zeros((0, 0), np.float32)

    def interface(self, window: int, features: int) -> list[tuple[str, str, str]]:
        """What differs from the promised inputs and outputs: (key, found, mend)."""
        name, score, contributions = self._names
        found = []
        inputs = [i.name for i in self._session.get_inputs()]
        if inputs != [name]:
            found.append(("input", f"the model's inputs are {inputs}", f"make it [{name!r}]"))
        else:
            wanted = ("input", name, self._session.get_inputs()[0], (window, features))
            found += _shape_problems(*wanted)
        outputs = {o.name: o for o in self._session.get_outputs()}
        for key, output, shape in (
            ("output.score", score, ()),
            ("output.contributions", contributions, (features,)),
        ):
            if output in outputs:
                found += _shape_problems(key, output, outputs[output], shape)
            else:
                names = sorted(outputs)
                found.append((key, f"the model's outputs are {names}", f"name one {output!r}"))
        return found

    def reserve(self, rows: int, window: int, features: int) -> None:
        """Make room for at least `rows` windows; what `windows` held is gone."""
        padded = -(-rows // ROWS_MULTIPLE) * ROWS_MULTIPLE
        name, score, contributions = self._names
        self.windows = np.zeros((padded, window, features), np.float32)
        self._scores = np.zeros(padded, np.float32)
        self._contributions = np.zeros((padded, features), np.float32)
        of_numpy = self._ort.OrtValue.ortvalue_from_numpy  # shares the array's memory on a CPU
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(name, of_numpy(self.windows))
        self._binding.bind_ortvalue_output(score, of_numpy(self._scores))
        self._binding.bind_ortvalue_output(contributions, of_numpy(self._contributions))

    def run(self) -> tuple[Float32Array, Float32Array]:
        """Scores (rows,) and contributions (rows, features) of `windows`; valid until the next."""
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # its exceptions have no base class but this
            raise ModelFailed(f"the run failed: {_words(error)}") from error
        return self._scores, self._contributions


def _shape_problems(
    key: str, name: str, found: Any, row_shape: tuple[int, ...]
) -> list[tuple[str, str, str]]:
    """What is wrong with one input or output of shape (rows, *row_shape)."""
    wanted = ["rows", *row_shape]
    good = (
        found.type == _FLOAT
        and len(found.shape) == len(wanted)
        and not isinstance(found.shape[0], int)
        and list(found.shape[1:]) == wanted[1:]
    )
    if good:
        return []
    return [
        (
            key,
            f"{name!r} is {found.type} of shape {found.shape}",
            f"export it as {_FLOAT} of shape {wanted}, rows being dynamic",
        )
    ]


def _words(error: Exception) -> str:
    """The error's own words, in one line of a length that a log may hold."""
    return " ".join(str(error).split())[:200]
