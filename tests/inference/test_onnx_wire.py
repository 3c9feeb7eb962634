from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from gateway.inference.onnx_wire import (
    FIELDS_MAX,
    ML_DOMAIN,
    ML_OPERATORS,
    OBJECTIONS_MAX,
    OPERATORS,
    objections,
)
from tests.inference.bundles import make_model


def external(name: str = "outside") -> onnx.TensorProto:
    tensor = TensorProto(
        name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def constant_node(tensor: onnx.TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=tensor)


def branch() -> onnx.GraphProto:
    return helper.make_graph([constant_node(external())], "branch", [], [])


def test_an_ordinary_model_has_no_objection() -> None:
    assert objections(make_model().SerializeToString()) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda m: m.graph.initializer.append(external()), "external data"),
        (lambda m: m.graph.node.append(constant_node(external())), "external data"),
        (
            lambda m: m.graph.sparse_initializer.append(onnx.SparseTensorProto(values=external())),
            "external data",
        ),
        (
            lambda m: m.graph.node.append(
                helper.make_node(
                    "Constant", [], ["c"], sparse_value=onnx.SparseTensorProto(indices=external())
                )
            ),
            "external data",
        ),
        (
            lambda m: m.graph.initializer.append(
                TensorProto(name="x", data_location=TensorProto.EXTERNAL)
            ),
            "external data",
        ),
        (
            lambda m: m.graph.node.append(
                helper.make_node("If", ["b"], ["c"], then_branch=branch(), else_branch=branch())
            ),
            "subgraph",
        ),
        (lambda m: m.graph.node.append(helper.make_node("Loop", [], ["c"])), "'Loop'"),
        (lambda m: m.graph.node.append(helper.make_node("Expand", ["a"], ["c"])), "'Expand'"),
        (lambda m: m.graph.node.append(helper.make_node("RandomNormal", [], ["c"])), "Random"),
        (
            lambda m: m.graph.node.append(
                helper.make_node("Add", ["a", "b"], ["c"], domain="com.example")
            ),
            "com.example",
        ),
        (lambda m: m.functions.append(onnx.FunctionProto(name="f")), "function"),
        (lambda m: m.training_info.append(onnx.TrainingInfoProto()), "training"),
    ],
)
def test_what_a_detector_never_needs_is_refused(
    spoil: Callable[[onnx.ModelProto], None], said: str
) -> None:
    model = make_model()
    spoil(model)
    assert any(said in objection for objection in objections(model.SerializeToString()))


def test_a_second_graph_field_hides_nothing() -> None:
    """Protobuf merges the two; so does the walker, by looking at both."""
    hidden = onnx.ModelProto()
    hidden.graph.initializer.append(external())
    assert objections(hidden.SerializeToString() + make_model().SerializeToString())
    assert objections(make_model().SerializeToString() + hidden.SerializeToString())


def test_objections_are_few_however_many_there_are() -> None:
    model = make_model()
    for i in range(100):
        model.graph.node.append(helper.make_node(f"Unheard{i}", [], []))
    assert len(objections(model.SerializeToString())) == OBJECTIONS_MAX


def test_the_walk_is_bounded() -> None:
    nodes = b"\x0a\x00" * (FIELDS_MAX + 1)  # that many empty nodes
    length = len(nodes)
    varint = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
    assert objections(b"\x3a" + varint + nodes) == [
        f"not an ONNX file: more than {FIELDS_MAX} fields"
    ]


@pytest.mark.parametrize("content", [b"", b"\x08\x09", b"hello", b"\x00" * 40, b"\xff" * 40])
def test_what_is_not_a_model_is_said(content: bytes) -> None:
    assert objections(content)[0].startswith("not an ONNX file")


@given(st.binary(max_size=400))
def test_any_bytes_are_judged_without_an_exception(content: bytes) -> None:
    objections(content)


@given(st.data())
def test_a_cut_or_flipped_model_is_judged_without_an_exception(data: st.DataObject) -> None:
    content = bytearray(make_model().SerializeToString())
    cut = data.draw(st.integers(0, len(content)))
    objections(bytes(content[:cut]))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    objections(bytes(content))


def test_external_data_is_found_exactly_where_onnx_finds_it() -> None:
    """The walker against the onnx package's own parser, over tensors in every place."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        model = make_model()
        for i in range(4):
            spoilt = rng.random() < 0.2
            tensor = external(f"t{i}") if spoilt else numpy_helper.from_array(np.ones(3), f"t{i}")
            if rng.random() < 0.5:
                model.graph.initializer.append(tensor)
            else:
                model.graph.node.append(constant_node(tensor))
        tensors = [*model.graph.initializer]
        tensors += [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
        outside = any(t.data_location == TensorProto.EXTERNAL for t in tensors)
        assert bool(objections(model.SerializeToString())) == outside


def test_every_allowed_operator_is_an_operator_of_onnx() -> None:
    schemas = onnx.defs.get_all_schemas()
    assert {schema.name for schema in schemas if not schema.domain} >= OPERATORS
    assert {schema.name for schema in schemas if schema.domain == ML_DOMAIN} >= ML_OPERATORS
    for schema in schemas:
        if schema.name in OPERATORS | ML_OPERATORS:
            graphs = [a for a in schema.attributes.values() if a.type.name in ("GRAPH", "GRAPHS")]
            assert not graphs, schema.name
