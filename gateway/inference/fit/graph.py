"""Graph: an ONNX file written node by node, with numpy arrays as its constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Graph"]

OPSET = 18  # ONNX Runtime 1.14 and later
IR_VERSION = 9


class Graph:
    """One input (rows, window, features), rows dynamic; whatever outputs are named."""

    def __init__(self, name: str, window: int, features: int) -> None:
        self._inputs = [_value(name, window, features)]
        self._outputs: list[Any] = []
        self._nodes: list[Any] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """One node; the name of its first output."""
        name = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def floats(self, values: npt.ArrayLike) -> str:
        """A float32 constant; equal ones are kept once."""
        return self._constant(np.asarray(values, np.float32))

    def integers(self, *values: int) -> str:
        """A one-dimensional int64 constant: axes, indices, shapes."""
        return self._constant(np.array(values, np.int64))

    def scalar(self, value: int) -> str:
        """An int64 constant without dimensions: an index that drops its axis."""
        return self._constant(np.array(value, np.int64))

    def output(self, value: str, name: str, *shape: int) -> None:
        """Name a value as an output of shape (rows, *shape)."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(_value(name, *shape))

    def model(self) -> bytes:
        """The file's bytes, checked; the same graph gives the same bytes."""
        graph = helper.make_graph(
            self._nodes, "detector", self._inputs, self._outputs, self._initializers
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="sluicegate",
        )
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    def _constant(self, array: npt.NDArray[Any]) -> str:
        key = (array.dtype.str, array.shape, array.tobytes())
        name = self._constants.get(key)
        if name is None:
            name = self._constants[key] = f"c{len(self._constants)}"
            self._initializers.append(numpy_helper.from_array(array, name))
        return name


def _value(name: str, *shape: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", *shape])
