from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from gateway.errors import BundleInvalid
from gateway.inference.bundle import (
    MANIFEST_BYTES_MAX,
    MODEL_BYTES_MAX,
    check_bundle,
    load_bundle,
    read_manifest,
)
from gateway.inference.config import ModelSettings
from tests.inference.bundles import FIELDS, WINDOW, make_model, write_bundle
from tests.samples import make_tag


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def refusal(path: Path) -> BundleInvalid:
    with pytest.raises(BundleInvalid) as raised:
        load_bundle(path)
    return raised.value


def settings_for(path: Path, **facts: object) -> ModelSettings:
    return ModelSettings.model_validate({"name": "m", "bundle": path} | facts)


def test_a_valid_bundle_says_what_it_is_and_scores(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.manifest.fields == FIELDS
    assert bundle.manifest.period_ns == 10**9
    bundle.runner.reserve(2, WINDOW, len(FIELDS))
    bundle.runner.windows[1] = -3
    scores, contributions = bundle.runner.run()
    assert scores[:2].tolist() == [0, 6]
    assert contributions[1].tolist() == [3, 3]


def edit(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: (path / file).write_bytes(change((path / file).read_bytes())) and None


def with_model(model: onnx.ModelProto) -> Callable[[Path], None]:
    return lambda path: write_bundle(path, model) and None


def reshaped(**facts: object) -> Callable[[Path], None]:
    return lambda path: write_bundle(path, make_model(**facts)) and None  # type: ignore[arg-type] - one case a line


def rewritten(**changed: str) -> Callable[[Path], None]:
    return lambda path: write_bundle(path, **changed) and None


def renamed_output() -> onnx.ModelProto:
    model = make_model()
    model.graph.output[0].name = "sum"
    return model


def float64_score() -> onnx.ModelProto:
    model = make_model()
    model.graph.node.append(helper.make_node("Cast", ["sum"], ["wide"], to=TensorProto.DOUBLE))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("wide", TensorProto.DOUBLE, ["r"]))
    model.graph.output[0].name = "wide"
    return model


def two_inputs() -> onnx.ModelProto:
    model = make_model()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    return model


def mixing_rows() -> onnx.ModelProto:
    """Scores relative to the other rows of the batch, as a batch normalisation left on would."""
    return make_model(
        nodes=[
            helper.make_node("Abs", ["window"], ["size"]),
            helper.make_node("ReduceMean", ["size", "one"], ["contributions"], keepdims=0),
            helper.make_node("ReduceSum", ["contributions", "one"], ["own"], keepdims=0),
            helper.make_node("ReduceMean", ["own", "first"], ["all"], keepdims=1),
            helper.make_node("Sub", ["own", "all"], ["score"]),
        ],
        initializers=[numpy_helper.from_array(np.array([0], np.int64), "first")],
    )


def broken_graph() -> onnx.ModelProto:
    model = make_model()
    model.graph.node[0].input[0] = "not there"
    return model


def future_opset() -> onnx.ModelProto:
    model = make_model()
    model.opset_import[0].version = 9999
    return model


def external_model() -> onnx.ModelProto:
    model = make_model()
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return model


SPOILT: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    # case: (how, file, place, words)
    "no model": (lambda p: (p / "model.onnx").unlink(), "model.onnx", "the file", "no such file"),
    "no manifest": (lambda p: (p / "bundle.toml").unlink(), "bundle.toml", "the file", "no such"),
    "truncated model": (edit("model.onnx", lambda b: b[:-9]), "bundle.toml", "sha256", "has "),
    "flipped byte": (
        edit("model.onnx", lambda b: b[:50] + bytes([b[50] ^ 1]) + b[51:]),
        *("bundle.toml", "sha256", "has "),
    ),
    "empty model": (edit("model.onnx", lambda _: b""), "bundle.toml", "sha256", "has "),
    "other sha": (rewritten(sha256=f'"{"0" * 64}"'), "bundle.toml", "sha256", "has "),
    "sha not hex": (rewritten(sha256='"abc"'), "bundle.toml", "sha256", "match pattern"),
    "not toml": (edit("bundle.toml", lambda b: b + b"=\n"), "bundle.toml", "the file", "not TOML"),
    "not text": (edit("bundle.toml", lambda b: b + b"\xff"), "bundle.toml", "the file", "not TOML"),
    "deep toml": (
        edit("bundle.toml", lambda b: b"x = " + b"[" * 90_000 + b"]" * 90_000 + b"\n" + b),
        *("bundle.toml", "the file", "not TOML"),
    ),
    "vast toml": (
        edit("bundle.toml", lambda b: b + b"#" * MANIFEST_BYTES_MAX),
        *("bundle.toml", "the file", "larger than"),
    ),
    "unknown key": (rewritten(colour='"red"'), "bundle.toml", "colour", "Extra inputs"),
    "no threshold": (rewritten(threshold=""), "bundle.toml", "threshold", "Field required"),
    "threshold nan": (rewritten(threshold="nan"), "bundle.toml", "threshold", "finite"),
    "window zero": (rewritten(window="0"), "bundle.toml", "window", "greater than"),
    "no unit": (rewritten(sample_period='"1 fortnight"'), "bundle.toml", "sample_period", "unit"),
    "other format": (rewritten(format="3"), "bundle.toml", "format", "should be 1 or 2"),
    "format 2 in format 1": (rewritten(normal="1"), "bundle.toml", "the file", "write format = 2"),
    "threshold is normal": (
        rewritten(format="2", normal="10"),
        *("bundle.toml", "the file", "threshold is what normal is"),
    ),
    "vast window": (rewritten(window="40000"), "bundle.toml", "the file", "more than 65536"),
    "window not as golden": (rewritten(window="6"), "bundle.toml", "the file", "must have 6 rows"),
    "twice a feature": (
        lambda p: write_bundle(p, fields=("speed", "speed")) and None,
        *("bundle.toml", "the file", "listed twice"),
    ),
    "model of other features": (reshaped(features=3), "bundle.toml", "input", "'rows', 5, 3"),
    "model of other window": (reshaped(window=6), "bundle.toml", "input", "'rows', 6, 2"),
    "fixed batch": (reshaped(rows=1), "bundle.toml", "input", "[1, 5, 2]"),
    "input named else": (rewritten(input='"x"'), "bundle.toml", "input", "['window']"),
    "two inputs": (with_model(two_inputs()), "bundle.toml", "input", "'more'"),
    "output named else": (with_model(renamed_output()), "bundle.toml", "output.score", "'sum'"),
    "float64 score": (
        lambda p: write_bundle(p, float64_score(), output='{ score = "wide" }') and None,
        *("bundle.toml", "output.score", "tensor(double)"),
    ),
    "broken graph": (with_model(broken_graph()), "model.onnx", "the file", "ONNX Runtime refuses"),
    "future opset": (with_model(future_opset()), "model.onnx", "the file", "ONNX Runtime refuses"),
    "external data": (with_model(external_model()), "model.onnx", "the file", "external data"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_whatever_is_wrong_is_said_with_file_key_and_mend(folder: Path, case: str) -> None:
    spoil, file, place, words = SPOILT[case]
    spoil(folder)
    problem = refusal(folder).problems[0]
    assert problem.file == str(folder / file)
    assert problem.place == place
    assert words in problem.found
    assert problem.mend
    assert len(str(problem)) < 1000


def test_a_golden_window_that_scores_otherwise_is_refused(folder: Path) -> None:
    toml = folder / "bundle.toml"
    toml.write_text(toml.read_text().replace("score = 3.0", "score = 3.1"))
    problem = refusal(folder).problems[0]
    assert problem.place == "golden[0].score"
    assert "scores 3, not 3.1" in problem.found


def test_rows_that_look_at_each_other_are_refused_though_alone_they_score_right(
    tmp_path: Path,
) -> None:
    """Alone (among zeros) the golden score is met; among three of its kind it is not."""
    model = mixing_rows()
    folder = write_bundle(tmp_path / "mixing", model)
    toml = folder / "bundle.toml"
    toml.write_text(toml.read_text().replace("score = 3.0", f"score = {3.0 - 3.0 / 8}"))
    assert "among other rows" in refusal(folder).problems[0].found


def test_a_model_beyond_its_bound_is_not_read(folder: Path) -> None:
    with (folder / "model.onnx").open("r+b") as file:
        file.truncate(MODEL_BYTES_MAX + 1)
    assert "larger than" in refusal(folder).problems[0].found


def test_a_pipe_in_place_of_a_file_does_not_block(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    assert "no such file" in refusal(folder).problems[0].found


def test_all_that_is_wrong_with_a_manifest_is_said_at_once(folder: Path) -> None:
    write_bundle(folder, threshold="-1", hop="0", colour="1")
    places = {problem.place for problem in refusal(folder).problems}
    assert places == {"threshold", "hop", "colour"}


def test_a_link_out_of_the_bundle_is_refused_and_one_within_it_is_not(folder: Path) -> None:
    """A mounted volume shows its files through links of its own."""
    (folder / "data").mkdir()
    (folder / "model.onnx").rename(folder / "data" / "model.onnx")
    (folder / "model.onnx").symlink_to("data/model.onnx")
    load_bundle(folder)
    (folder / "data" / "model.onnx").rename(folder.parent / "model.onnx")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("../model.onnx")
    assert "outside of the bundle" in refusal(folder).problems[0].found


def test_names_that_no_file_can_have_are_refused_as_others_are(folder: Path) -> None:
    (folder / "bundle.toml").unlink()
    (folder / "bundle.toml").symlink_to("bundle.toml")  # to itself
    for path in (folder, folder / "\0", folder / ("x" * 5000)):
        assert "cannot be read" in refusal(path).problems[0].found


@pytest.mark.parametrize(("opset", "ir_version"), [(99, 9), (18, 99)])
def test_a_model_that_is_too_new_is_said_to_be(folder: Path, opset: int, ir_version: int) -> None:
    model = make_model()
    model.ir_version = ir_version
    model.opset_import[0].version = opset
    write_bundle(folder, model)
    found = refusal(folder).problems[0].found
    assert "the file is newer than this gateway, which runs up to" in found
    assert "onnxruntime_src" not in found


def test_external_data_is_not_read_even_through_a_hard_link(folder: Path) -> None:
    """ONNX Runtime itself would follow the link; the bytes are judged before it sees them."""
    secret = folder.parent / "secret"
    secret.write_bytes(np.float32(1000).tobytes())
    (folder / "weights.bin").hardlink_to(secret)
    write_bundle(folder, external_model())
    assert "external data" in refusal(folder).problems[0].found


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_damaged_model_with_a_matching_sum_is_refused_or_scores_its_golden_window(
    folder: Path, data: st.DataObject
) -> None:
    """Damage before the sum was taken: whatever is believed must still do what it did."""
    content = bytearray(make_model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(len(content) // 2, len(content)))]
    (folder / "model.onnx").write_bytes(content)
    text = (folder / "bundle.toml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("sha256"))
    digest = hashlib.sha256(content).hexdigest()
    (folder / "bundle.toml").write_text(text.replace(line, f'sha256 = "{digest}"'))
    try:
        bundle = load_bundle(folder)
    except BundleInvalid:
        return
    bundle.runner.reserve(1, WINDOW, len(FIELDS))
    bundle.runner.windows[0] = 1.5
    assert bundle.runner.run()[0][0] == pytest.approx(3.0, rel=1e-3)


def test_check_finds_no_fault_with_assets_that_have_every_feature(folder: Path) -> None:
    tags = [make_tag(f"pump-{i}.{field}", eng_unit="mm/s") for i in (1, 2) for field in FIELDS]
    assert check_bundle(folder, settings_for(folder), tags) == []


def test_check_names_the_missing_tag_and_the_differing_unit(folder: Path) -> None:
    tags = [
        make_tag("pump-1.speed", eng_unit="mm/s"),
        make_tag("pump-2.speed", eng_unit="rpm"),
        make_tag("pump-2.vibration", eng_unit=""),  # not said, so not wrong
        make_tag("valve-1.speed", asset_class="valve"),
        make_tag("spare-1.speed"),
    ]
    found = check_bundle(folder, settings_for(folder, assets=["pump-*"]), tags)
    assert [problem.place for problem in found] == ["feature[1].field", "feature[0].field"]
    assert "pump-1.vibration" in found[0].found
    assert "'rpm', not 'mm/s'" in found[1].found


def test_check_of_a_wrong_bundle_says_so_instead_of_raising(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    found = check_bundle(folder, settings_for(folder))
    assert len(found) == 1


def test_a_class_in_the_settings_replaces_the_bundles_own(folder: Path) -> None:
    manifest = read_manifest(folder)
    tag = make_tag("p.vibration", asset_class="booster")
    assert manifest.feature_of(tag, settings_for(folder)) is None
    assert manifest.feature_of(tag, settings_for(folder, **{"class": "booster"})) == 1


def test_format_2_says_what_is_healthy_and_how_sure_its_alarms_are(folder: Path) -> None:
    write_bundle(folder, format="2")
    text = (folder / "bundle.toml").read_text()
    healthy = (
        "[feature.healthy]\nlow = 0\nhigh = 10\nnoise = 0.1\nstep_max = 2\nflat_max = 3\n"
        "deciles = [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
    )
    rate = "[false_alarms]\nper_week = 1\nbound_per_week = 4.2\nconfidence = 0.95\nhours = 20\n"
    text = text.replace("[[feature]]", rate + "[[feature]]", 1)
    text = text.replace("[[golden]]", healthy + "[[golden]]")
    (folder / "bundle.toml").write_text(text)
    manifest = load_bundle(folder).manifest
    assert manifest.false_alarms is not None
    assert manifest.false_alarms.bound_per_week == 4.2
    assert [feature.healthy is None for feature in manifest.features] == [True, False]
    (folder / "bundle.toml").write_text(text.replace("[1, 2, 3", "[1, 3, 2"))
    assert "must not fall" in refusal(folder).problems[0].found
