"""Models that somebody else exported, with a bundle.toml written by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier, IsolationForest
from sklearn.svm import OneClassSVM

from gateway.errors import BundleInvalid
from gateway.frame import Frame
from gateway.inference.bundle import Bundle, load_bundle
from gateway.inference.config import ModelSettings
from gateway.inference.engine import Engine
from gateway.tag import TagTable
from tests.inference.bundles import FIELDS
from tests.samples import make_tag

OPSETS = {"": 18, "ai.onnx.ml": 3}
HEALTHY = np.random.default_rng(1).normal(0, 1, (600, 2)).astype(np.float32)
SECOND = 10**9


def write(folder: Path, model: onnx.ModelProto, toml: str, golden: npt.NDArray[np.float32],
          score: float) -> Path:  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    (folder / "bundle.toml").write_text(
        "format = 2\n"
        'name = "mine"\nversion = "1"\nasset_class = "pump"\n'
        'sample_period = "1s"\nhop = 1\nmin_valid_fraction = 1.0\n'
        f'sha256 = "{hashlib.sha256(content).hexdigest()}"\n'
        f"{toml}\n"
        '[provenance]\nmade_by = "a notebook"\n'
        + "".join(f'[[feature]]\nfield = "{field}"\n' for field in FIELDS)
        + f"[[golden]]\nscore = {score}\nwindow = {golden.tolist()}\n"
    )
    return folder


def scores_of(bundle: Bundle, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    manifest = bundle.manifest
    bundle.runner.reserve(len(windows), manifest.window, len(manifest.features))
    bundle.runner.windows[: len(windows)] = windows
    return bundle.runner.run()[0][: len(windows)].copy()


FOREST_TOML = """
window = 1
layout = "last"
input = "X"
output = { score = "scores", contributions = "" }
normal = 0.1      # the decision function of an ordinary sample
threshold = 0.0   # and where it says outlier
"""


def test_an_isolation_forest_with_its_integer_labels_watches_pumps(tmp_path: Path) -> None:
    forest = IsolationForest(n_estimators=30, random_state=0).fit(HEALTHY)
    model = to_onnx(forest, HEALTHY[:1], target_opset=OPSETS)
    ordinary = HEALTHY[:1]
    score = float(forest.decision_function(ordinary)[0])
    folder = write(tmp_path / "forest", model, FOREST_TOML, ordinary, score)
    samples = np.concatenate([HEALTHY[:20], [[8, -8]]]).astype(np.float32)
    found = scores_of(load_bundle(folder), samples[:, np.newaxis])
    np.testing.assert_allclose(found, forest.decision_function(samples), atol=1e-5)

    table = TagTable()
    ids = np.array([table.add(make_tag(f"p.{field}")) for field in FIELDS], np.int32)
    engine = Engine([ModelSettings(name="m", bundle=folder)], table, Path())
    made = []
    for second in range(12):
        values = np.array([0.1, 0.0]) if second < 6 else np.array([8.0, -8.0])
        now_ns = (10**6 + second) * SECOND
        made.append(engine.apply(Frame.of(now_ns, ids, values), now_ns))
    scores = [float(f.values[0]) for f, _ in made if len(f)]
    assert scores[3] < 0.5
    assert scores[-1] > 1
    assert [event.is_open for event in engine.recent_events] == [True]


def test_labels_themselves_may_be_the_score(tmp_path: Path) -> None:
    """int64, 1 for an inlier and -1 for an outlier: normal and threshold turn it around."""
    machine = OneClassSVM(nu=0.05).fit(HEALTHY)
    model = to_onnx(machine, HEALTHY[:1], target_opset=OPSETS)
    toml = (
        'window = 1\nlayout = "last"\ninput = "X"\nnormal = 1\nthreshold = -1\n'
        'output = { score = "label", contributions = "" }'
    )
    bundle = load_bundle(write(tmp_path / "svm", model, toml, HEALTHY[:1], 1.0))
    found = scores_of(bundle, np.array([[HEALTHY[0]], [[30, 30]]], np.float32))
    assert found.tolist() == [1, -1]


def test_a_column_of_probabilities_may_be_the_score(tmp_path: Path) -> None:
    worn = HEALTHY[:, 0] > 1
    boosted = GradientBoostingClassifier(n_estimators=8, random_state=0).fit(HEALTHY, worn)
    options = {id(boosted): {"zipmap": False}}
    model = to_onnx(boosted, HEALTHY[:1], target_opset=OPSETS, options=options)
    toml = (
        'window = 1\nlayout = "last"\ninput = "X"\nthreshold = 0.5\n'
        'output = { score = "probabilities", column = 1, contributions = "" }'
    )
    wanted = boosted.predict_proba(HEALTHY[:9])[:, 1]
    folder = write(tmp_path / "boosted", model, toml, HEALTHY[:1], float(wanted[0]))
    found = scores_of(load_bundle(folder), HEALTHY[:9, np.newaxis])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    text = (folder / "bundle.toml").read_text().replace("column = 1", "column = 2")
    (folder / "bundle.toml").write_text(text)
    with pytest.raises(BundleInvalid, match=r"output.column.*2 columns.*below 2"):
        load_bundle(folder)


def test_a_classifier_that_gives_maps_is_refused_with_the_way_out(tmp_path: Path) -> None:
    boosted = GradientBoostingClassifier(n_estimators=2).fit(HEALTHY, HEALTHY[:, 0] > 1)
    model = to_onnx(boosted, HEALTHY[:1], target_opset=OPSETS)
    toml = 'window = 1\nlayout = "last"\ninput = "X"\nthreshold = 0.5'
    folder = write(tmp_path / "maps", model, toml, HEALTHY[:1], 0)
    with pytest.raises(BundleInvalid, match="ZipMap"):
        load_bundle(folder)


WINDOW = 4


def autoencoder(
    kind: int = TensorProto.FLOAT, rows: int | str = "batch", *, as_column: bool = True
) -> onnx.ModelProto:
    """As PyTorch exports one that was given a flattened window: error per row, shape (rows, 1)."""
    width = WINDOW * len(FIELDS)
    numpy_kind = helper.tensor_dtype_to_np_dtype(kind)
    half = numpy_helper.from_array((np.eye(width) * 0.5).astype(numpy_kind), "weight")
    nodes = [
        helper.make_node("MatMul", ["input", "weight"], ["again"]),
        helper.make_node("Sub", ["input", "again"], ["error"]),
        helper.make_node("ReduceSumSquare", ["error", "one"], ["mse"], keepdims=int(as_column)),
    ]
    shape = [rows, 1] if as_column else [rows]
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info("input", kind, [rows, width])],
        [helper.make_tensor_value_info("mse", kind, shape)],
        [half, numpy_helper.from_array(np.array([1], np.int64), "one")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


AUTOENCODER_TOML = f"""
window = {WINDOW}
layout = "flat"
input = "input"
output = {{ score = "mse", contributions = "" }}
threshold = 4.0
"""


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE])
@pytest.mark.parametrize("rows", ["batch", 1, 3])
@pytest.mark.parametrize("as_column", [True, False])
def test_a_flat_window_in_either_float_and_any_batch(
    tmp_path: Path, kind: int, rows: int | str, as_column: bool
) -> None:
    golden = np.ones((WINDOW, len(FIELDS)), np.float32)
    model = autoencoder(kind, rows, as_column=as_column)
    folder = write(tmp_path / "b", model, AUTOENCODER_TOML, golden, 0.25 * golden.size)
    windows = np.random.default_rng(2).normal(0, 1, (7, *golden.shape)).astype(np.float32)
    found = scores_of(load_bundle(folder), windows)
    np.testing.assert_allclose(found, 0.25 * (windows**2).sum(axis=(1, 2)), rtol=1e-5)


def test_a_model_that_wants_another_shape_is_told_the_layouts(tmp_path: Path) -> None:
    golden = np.ones((WINDOW, len(FIELDS)), np.float32)
    toml = AUTOENCODER_TOML.replace('"flat"', '"window"')
    folder = write(tmp_path / "b", autoencoder(), toml, golden, 2.0)
    with pytest.raises(BundleInvalid, match=r'layout = .*"flat"'):
        load_bundle(folder)
