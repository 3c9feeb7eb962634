"""What is inside a model file, read from its bytes alone, before ONNX Runtime is given them.

A small protobuf walker over onnx.proto3's messages. It refuses what a detector never needs and
an attacker does:

    external data      a tensor that lives in another file; ONNX Runtime follows a hard link
    subgraphs          If, Loop and Scan carry them; a loop of a few hundred bytes can run for ever
    model functions    operators of the file's own making, past the list below
    other operators    not in OPERATORS or ML_OPERATORS: what makes large tensors out of small
                       ones (Expand, Tile, Range, ...), random numbers, strings, sequences, maps,
                       custom domains

It is a gate, not a sandbox: a graph of allowed operators can still be large or slow.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["ML_OPERATORS", "OPERATORS", "objections", "uses_ml_operators"]

_OPERATORS = """
    Abs Add And Cast Ceil Clip Cos Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual
    HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish
    Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign
    Sqrt Sub Sum Tan Tanh ThresholdedRelu Where Xor

    Conv Gemm GRU LSTM MatMul RNN AveragePool GlobalAveragePool GlobalMaxPool MaxPool

    BatchNormalization InstanceNormalization LayerNormalization LogSoftmax LpNormalization
    Softmax ArgMax ArgMin CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare TopK

    Concat Constant Flatten Gather GatherElements Reshape Shape Size Slice Split Squeeze
    Transpose Unsqueeze
"""
OPERATORS = frozenset(_OPERATORS.split())

# Of the domain ai.onnx.ml, what exports of trees, support vectors, linear models and scalers are
# made of. Without what needs strings or maps (ZipMap, DictVectorizer, CategoryMapper).
ML_DOMAIN = "ai.onnx.ml"
_ML_OPERATORS = """
    ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LabelEncoder LinearClassifier
    LinearRegressor Normalizer SVMClassifier SVMRegressor Scaler TreeEnsemble
    TreeEnsembleClassifier TreeEnsembleRegressor
"""
ML_OPERATORS = frozenset(_ML_OPERATORS.split())

# Real detectors have tens of nodes and hundreds of fields; this many is not one.
FIELDS_MAX = 200_000
# Enough to mend a file by; a hostile one must not fill the log.
OBJECTIONS_MAX = 8

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Fields that hold messages we look into: message -> {field number: message}. Nothing contains
# itself (subgraphs are refused, not entered), so the depth is bounded by this table.
_CHILDREN = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
# Fields whose presence alone is an objection.
_REFUSED = {
    ("model", 20): "training information",
    ("model", 25): "a model-local function",
    ("attribute", 6): "a subgraph",
    ("attribute", 11): "a list of subgraphs",
    ("tensor", 13): "a tensor with external data",
}
_MODEL_GRAPH, _NODE_OP_TYPE, _NODE_DOMAIN, _TENSOR_DATA_LOCATION = 7, 4, 7, 14


class _Malformed(Exception):
    """The bytes are not a protobuf; `args` are the words for it."""


def objections(model: bytes) -> list[str]:
    """Why these bytes are not handed to ONNX Runtime; empty when they may be."""
    found: dict[str, None] = {}  # a set that keeps the order
    has_graph = False
    try:
        for message, number, value, content in _fields(model):
            has_graph |= message == "model" and number == _MODEL_GRAPH
            objection = _objection(message, number, value, content)
            if objection:
                found[objection] = None
            if len(found) == OBJECTIONS_MAX:
                break
    except _Malformed as error:
        found[f"not an ONNX file: {error}"] = None
    if not has_graph and not found:
        found["not an ONNX file: it has no graph"] = None
    return list(found)


def uses_ml_operators(model: bytes) -> bool:
    """Whether a model without objections has operators of ai.onnx.ml."""
    return any(
        message == "node" and number == _NODE_DOMAIN and content == ML_DOMAIN.encode()
        for message, number, _, content in _fields(model)
    )


def _fields(model: bytes) -> Iterator[tuple[str, int, int, memoryview]]:
    """Each field of each message looked into: message, number, value of a varint, content."""
    view = memoryview(model)
    stack = [("model", 0, len(model))]
    fields = 0
    while stack:
        message, position, end = stack.pop()
        while position < end:
            fields += 1
            if fields > FIELDS_MAX:
                raise _Malformed(f"more than {FIELDS_MAX} fields")
            number, kind, value, start, position = _field(model, position, end)
            child = _CHILDREN[message].get(number)
            if child is not None and kind == _BYTES:
                stack.append((child, start, position))
            yield message, number, value, view[start:position]


def _objection(message: str, number: int, value: int, content: memoryview) -> str:
    """What is wrong with one field, or nothing."""
    if (message, number) in _REFUSED:
        return f"it has {_REFUSED[message, number]}"
    if message == "tensor" and number == _TENSOR_DATA_LOCATION and value != 0:
        return "it has a tensor with external data"
    if message == "node" and number in (_NODE_OP_TYPE, _NODE_DOMAIN):
        name = str(content, "utf-8", "replace")
        if number == _NODE_OP_TYPE and name not in OPERATORS | ML_OPERATORS:
            return f"operator {name[:64]!r} is not allowed"
        if number == _NODE_DOMAIN and name not in ("", "ai.onnx", ML_DOMAIN):
            return f"operator domain {name[:64]!r} is not allowed"
    return ""


def _field(data: bytes, position: int, end: int) -> tuple[int, int, int, int, int]:
    """Number, wire type, value (of a varint), where its content starts and ends."""
    key, start = _varint(data, position, end)
    number, kind = key >> 3, key & 7
    value, stop = 0, start
    if kind == _VARINT:
        value, stop = _varint(data, start, end)
    elif kind == _BYTES:
        length, start = _varint(data, start, end)
        stop = start + length
    elif kind == _FIXED64:
        stop = start + 8
    elif kind == _FIXED32:
        stop = start + 4
    else:
        raise _Malformed(f"wire type {kind} at byte {position}")
    if number == 0 or stop > end:
        raise _Malformed(f"field {number} at byte {position} runs past its message")
    return number, kind, value, start, stop


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """The value of a varint and the position after it; at most ten bytes."""
    value = 0
    for i in range(min(10, end - position)):
        byte = data[position + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, position + i + 1
    raise _Malformed(f"a number at byte {position} does not end")
