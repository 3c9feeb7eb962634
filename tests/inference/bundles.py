"""Small bundles made on the spot: the score is the mean of |x| over the window, summed.

Above a sum of 1000 it is NaN, so that one model serves the tests of both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["FIELDS", "WINDOW", "make_model", "write_bundle"]

FIELDS = ("speed", "vibration")
WINDOW = 5


def float_input(name: str, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def make_model(
    *,
    nodes: Sequence[onnx.NodeProto] | None = None,
    rows: str | int = "rows",
    window: int = WINDOW,
    features: int = len(FIELDS),
    initializers: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """The tests' model, or one with other nodes between the same inputs and outputs."""
    standard = [
        helper.make_node("Abs", ["window"], ["size"]),
        helper.make_node("ReduceMean", ["size", "one"], ["contributions"], keepdims=0),
        helper.make_node("ReduceSum", ["contributions", "one"], ["sum"], keepdims=0),
        helper.make_node("Sub", ["limit", "sum"], ["rest"]),
        helper.make_node("Sqrt", ["rest"], ["root"]),  # NaN above the limit
        helper.make_node("Mul", ["root", "zero"], ["nothing"]),
        helper.make_node("Add", ["sum", "nothing"], ["score"]),
    ]
    graph = helper.make_graph(
        list(nodes or standard),
        "test",
        [float_input("window", [rows, window, features])],
        [float_input("score", [rows]), float_input("contributions", [rows, features])],
        [
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array(1000, np.float32), "limit"),
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
            *initializers,
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write_bundle(
    folder: Path,
    model: onnx.ModelProto | None = None,
    *,
    fields: Sequence[str] = FIELDS,
    **changed: str,
) -> Path:
    """A valid bundle, but for the lines of bundle.toml that `changed` replaces."""
    folder.mkdir(parents=True, exist_ok=True)
    content = (model or make_model(features=len(fields))).SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    lines = {
        "format": "1",
        "name": '"test"',
        "version": '"1"',
        "asset_class": '"pump"',
        "sample_period": '"1s"',
        "window": str(WINDOW),
        "hop": "2",
        "threshold": "10.0",
        "min_valid_fraction": "0.8",
        "sha256": f'"{hashlib.sha256(content).hexdigest()}"',
    } | changed
    text = "".join(f"{key} = {value}\n" for key, value in lines.items() if value)
    text += '[provenance]\ntrained_by = "tests/inference/conftest.py"\n'
    text += "".join(f'[[feature]]\nfield = "{field}"\neng_unit = "mm/s"\n' for field in fields)
    window = [[1.5] * len(fields)] * WINDOW
    text += f"[[golden]]\nscore = {1.5 * len(fields)}\nwindow = {window}\n"
    (folder / "bundle.toml").write_text(text)
    return folder
