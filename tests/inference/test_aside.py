"""Models that are heavy, hostile or strange: in a process of their own, and at its end."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from gateway.errors import BundleInvalid, ModelFailed
from gateway.frame import Frame
from gateway.inference import aside
from gateway.inference.aside import ChildRunner, Limits
from gateway.inference.bundle import check_bundle, load_bundle, read_manifest
from gateway.inference.config import ModelSettings
from gateway.inference.engine import Engine
from gateway.inference.runtime import Runner
from gateway.inference.trial import Trial
from gateway.tag import Quality, TagTable
from tests.inference.bundles import FIELDS, WINDOW, make_model, write_bundle
from tests.rig import pause
from tests.samples import make_tag

SECOND = 10**9


def bomb(doublings: int) -> onnx.ModelProto:
    """The tests' model, and beside it a tensor of 10 ** 2 ** doublings numbers, of ten."""
    model = make_model()
    nodes = [helper.make_node("Gather", ["window", "nought"], ["first"], axis=0)]
    last = "first"
    shapes = []
    for i in range(doublings):
        nodes += [
            helper.make_node("Reshape", [last, "column"], [f"column{i}"]),
            helper.make_node("Reshape", [last, "row"], [f"row{i}"]),
            helper.make_node("Mul", [f"column{i}", f"row{i}"], [f"product{i}"]),
        ]
        last = f"product{i}"
    nodes += [
        helper.make_node("ReduceSum", [last], ["all"], keepdims=0),
        helper.make_node("Mul", ["all", "zero"], ["naught"]),
        helper.make_node("Add", ["sum", "naught"], ["kept"]),
        helper.make_node("Add", ["kept", "nothing"], ["score"]),
    ]
    del model.graph.node[-1]
    model.graph.node.extend(nodes)
    shapes = {"nought": np.array(0), "column": np.array([-1, 1]), "row": np.array([1, -1])}
    for name, value in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.int64), name))
    return model


def child_of(folder: Path, **limits: float) -> ChildRunner:
    content = (folder / "model.onnx").read_bytes()
    return ChildRunner(content, read_manifest(folder), Limits(**limits))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def test_a_child_scores_to_the_bit_what_this_process_scores(folder: Path) -> None:
    windows = np.random.default_rng(1).normal(0, 5, (11, WINDOW, len(FIELDS))).astype(np.float32)
    here, child = load_bundle(folder).runner, child_of(folder)
    found = []
    for runner in (here, child):
        runner.reserve(len(windows), *windows.shape[1:])
        runner.windows[: len(windows)] = windows
        scores, contributions = runner.run()
        assert contributions is not None
        found.append((scores[:11].tobytes(), contributions[:11].tobytes()))
    child.close()
    assert found[0] == found[1]


def test_a_model_that_takes_all_memory_fails_alone(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bomb", bomb(3))  # 400 MB
    child = child_of(folder, memory_bytes=64 * 2**20, run_s=20)
    child.reserve(1, WINDOW, len(FIELDS))
    with pytest.raises(ModelFailed):
        child.run()
    child.close()


def test_a_run_that_takes_too_long_is_killed_and_the_next_starts_anew(tmp_path: Path) -> None:
    child = child_of(write_bundle(tmp_path / "slow", bomb(3)), memory_bytes=2**30, run_s=0.02)
    child.reserve(1, WINDOW, len(FIELDS))
    for starts in (1, 2):
        began_s = time.monotonic()
        with pytest.raises(ModelFailed, match="killed"):
            child.run()
        assert time.monotonic() - began_s < 10
        assert child.starts_total == starts
    child.close()


def test_a_child_that_gets_no_core_is_waited_for(folder: Path) -> None:
    """On a busy board any model is late, and three of them would be its end."""
    child = child_of(folder, run_s=0.1)
    child.reserve(1, WINDOW, len(FIELDS))
    child.run()
    assert child._child is not None
    pid = child._child._process.pid
    pause(pid)
    goes_on = threading.Timer(0.5, os.kill, (pid, signal.SIGCONT))
    goes_on.start()
    assert child.run()[0][0] == 0
    assert child.ms < 100
    goes_on.join()
    child.close()


def test_a_child_that_never_answers_is_not_waited_for_for_ever(folder: Path) -> None:
    child = child_of(folder, run_s=0.05)
    child.reserve(1, WINDOW, len(FIELDS))
    child.run()
    assert child._child is not None
    pause(child._child._process.pid)
    began_s = time.monotonic()
    with pytest.raises(ModelFailed, match="killed"):
        child.run()
    assert 0.5 <= time.monotonic() - began_s < 5
    child.close()


def test_a_child_that_is_killed_is_started_again(folder: Path) -> None:
    child = child_of(folder)
    child.reserve(1, WINDOW, len(FIELDS))
    child.run()
    assert child._child is not None
    os.kill(child._child._process.pid, signal.SIGKILL)
    with pytest.raises(ModelFailed, match="signal 9"):
        child.run()
    assert child.run()[0][0] == 0
    child.close()


def test_a_child_that_has_grown_is_replaced_and_no_run_is_missed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "GROWTH_BYTES_MAX", -(2**40))  # whatever it has is too much
    child = child_of(folder)
    child.reserve(1, WINDOW, len(FIELDS))
    child.windows[0] = 1.5
    assert [child.run()[0][0] for _ in range(3)] == [3, 3, 3]
    assert child.starts_total == 3
    child.close()


def test_a_bomb_is_refused_before_the_gateway_has_touched_it(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bomb", bomb(3))
    settings = ModelSettings.model_validate(
        {"name": "m", "bundle": folder, "memory_max": 64 * 2**20, "run_max": 20.0}
    )
    [problem] = check_bundle(folder, settings)
    assert problem.file.endswith("model.onnx")
    slow = settings.model_copy(update={"memory_max": 2**30, "run_max": 0.02})
    [problem] = check_bundle(folder, slow)
    assert "longer than it may" in problem.found


def test_a_bundle_is_tried_once_and_then_let_in(folder: Path, tmp_path: Path) -> None:
    memory = tmp_path / "state" / "tried.json"
    for _ in range(2):
        bundle = load_bundle(folder, trial=Trial(memory=memory))
        assert isinstance(bundle.runner, Runner)
    assert len(Trial(memory=memory)._let_in()) == 1
    memory.write_text("nonsense")
    assert isinstance(load_bundle(folder, trial=Trial(memory=memory)).runner, Runner)


@pytest.mark.parametrize(
    ("trial", "is_aside"),
    [
        (Trial(isolate="always"), True),
        (Trial(isolate="never"), False),
        (Trial(), False),
        (Trial(loads=99), True),  # ONNX Runtime grows with each load
    ],
)
def test_where_a_model_runs(folder: Path, trial: Trial, is_aside: bool) -> None:
    runner = load_bundle(folder, trial=trial).runner
    assert runner.is_aside is is_aside
    runner.close()


def test_a_heavy_model_stays_in_its_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.inference.trial.HEAVY_MS", 0.0)
    runner = load_bundle(write_bundle(tmp_path / "b"), trial=Trial()).runner
    assert runner.is_aside
    runner.close()


def test_a_model_that_fails_three_times_is_quarantined_and_the_others_go_on(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that needs more time than it may have, once real windows come."""

    def too_late(*_: object) -> None:
        raise TimeoutError

    table = TagTable()
    ids = np.array([table.add(make_tag(f"p.{field}")) for field in FIELDS], np.int32)
    models = [
        ModelSettings.model_validate({"name": "bad", "bundle": folder, "isolate": "always"}),
        ModelSettings(name="good", bundle=folder),
    ]
    with Engine(models, table, Path(), directory=tmp_path / "state") as engine:
        runner = engine.served("bad").active.bundle.runner
        assert isinstance(runner, ChildRunner)
        monkeypatch.setattr("gateway.inference.aside._Allowance.wait", too_late)
        made = [
            engine.apply(Frame.of(t * SECOND, ids, np.ones(2)), t * SECOND)
            for t in range(1000, 1020)
        ]
        stats = engine.stats
        assert (stats["bad"].state, stats["good"].state) == ("quarantined", "running")
        assert stats["bad"].runs_failed_total == 3
        last = [scores for scores, _ in made if len(scores)][-1]
        assert last.quality.tolist() == [Quality.BAD, Quality.GOOD]


def test_no_child_outlives_its_engine(tmp_path: Path, folder: Path) -> None:
    settings = ModelSettings.model_validate({"name": "m", "bundle": folder, "isolate": "always"})
    with Engine([settings], TagTable(), Path(), directory=tmp_path / "state") as engine:
        runner = engine.served("m").active.bundle.runner
        assert isinstance(runner, ChildRunner)
        assert runner._child is not None
        process = runner._child._process
        assert process.poll() is None
    assert process.poll() is not None


def test_a_manifest_that_lies_about_the_shape_is_refused_by_the_child_too(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", make_model(features=3))
    with pytest.raises(BundleInvalid, match="'rows', 5, 3"):
        load_bundle(folder, trial=Trial())
