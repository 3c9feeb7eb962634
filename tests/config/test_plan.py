"""The plan's numbers are those of the maps and settings, and the disk's those of the spool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gateway.clock import ManualClock
from gateway.config.load import load
from gateway.config.plan import DAY_S, bytes_per_day, check_models, make_plan
from gateway.frame import Frame, Lane, Turn
from gateway.spool.config import SpoolSettings
from gateway.spool.disk import Disk
from gateway.spool.group import Group
from gateway.spool.store import Store
from gateway.tag import Tag, TagTable
from tests.config.good import GOOD, PRESS
from tests.inference.bundles import write_bundle

Change = Callable[..., Path]


@pytest.fixture
def with_model(folder: Path, changed: Change) -> Path:
    """The good configuration and a model of pressures, without the broker."""
    start = GOOD.index('[[source]]\ntype = "mqtt"')
    changed(GOOD[start : GOOD.index("[[asset]]")], "")
    changed(', "plot-*.temperature"', "")
    press = PRESS.replace("bar", "mm/s")
    (folder / "press.csv").write_text(press, encoding="utf-8")
    write_bundle(folder / "models" / "press", fields=("pressure",), asset_class='"press"')
    return changed("[[sink]]", '[[model]]\nname = "m"\nbundle = "models/press"\n\n[[sink]]')


def test_each_scan_class_has_its_requests_and_its_rate(folder: Path) -> None:
    plan = make_plan(load(folder / "plant.toml"))
    press, broker = plan.sources
    assert [(scan.scan_class, scan.tags, len(scan.requests)) for scan in press.scans] == [
        ("fast", 2, 2),
        ("default", 1, 1),
    ]
    assert press.samples_per_s == pytest.approx(2 / 0.2 + 1 / 1.0)
    assert "holding_register" in press.scans[1].requests[0]
    assert broker.samples_per_s is None
    assert broker.may_grow
    assert broker.topics[0].topic_filter == "greenhouse/+/climate"
    assert broker.topics[0].fields == ("temperature",)


def test_aggregates_count_what_they_cover(folder: Path) -> None:
    plan = make_plan(load(folder / "plant.toml"))
    (aggregate,) = plan.aggregates
    assert aggregate.tags == 3
    assert aggregate.may_grow
    assert aggregate.samples_per_s == pytest.approx(3 * 6 / 10)
    assert plan.raw_samples_per_s == pytest.approx(11)
    assert plan.derived_samples_per_s == pytest.approx(1.8)


def test_a_model_names_the_assets_it_watches(with_model: Path) -> None:
    config = load(with_model)
    assert check_models(config) == []
    (model,) = make_plan(config).models
    assert model.assets == ("press-1", "press-2")
    assert model.fields == ("pressure",)
    assert (model.window_s, model.period_s, model.samples_per_s) == (5.0, 2.0, 1.0)
    assert not model.may_grow


def test_what_is_wrong_with_a_model_is_found_before_it_runs(with_model: Path) -> None:
    folder = with_model.parent
    bundle = folder / "models" / "press"
    write_bundle(bundle, fields=("pressure", "strokes"), asset_class='"press"')
    said = "\n".join(map(str, check_models(load(with_model))))
    assert "asset 'press-2' has no tag press-2.strokes" in said
    write_bundle(bundle, fields=("pressure",), asset_class='"pump"')
    (problem,) = check_models(load(with_model))
    assert 'no asset of the class "pump" has a tag pressure' in problem.found
    (folder / "press.csv").write_text(PRESS, encoding="utf-8")
    write_bundle(bundle, fields=("pressure",), asset_class='"press"')
    assert "is in 'bar', not 'mm/s'" in str(check_models(load(with_model))[0])
    (bundle / "model.onnx").write_bytes(b"nothing")
    assert check_models(load(with_model))
    assert make_plan(load(with_model)).models[0].assets == ("press-1", "press-2")


def test_a_bundle_that_cannot_be_read_stops_neither_the_gateway_nor_the_plan(
    with_model: Path,
) -> None:
    (with_model.parent / "models" / "press" / "bundle.toml").unlink()
    config = load(with_model)
    assert "until then this model gives no scores" in str(config.warnings[-1])
    (model,) = make_plan(config).models
    assert model.period_s is None
    assert model.samples_per_s == 0


def test_without_raw_frames_the_disk_lasts_longer(folder: Path, changed: Change) -> None:
    kept = make_plan(load(folder / "plant.toml")).spool
    left_out = make_plan(load(changed("[gateway.spool]", "[gateway.spool]\nraw = false"))).spool
    assert kept.days is not None
    assert left_out.days is not None
    assert kept.bytes_per_day_without_raw == left_out.bytes_per_day < kept.bytes_per_day
    assert kept.days == pytest.approx(512 * 2**20 / kept.bytes_per_day)
    assert left_out.days == kept.days_without_raw


@pytest.mark.parametrize("tags", [2, 40, 400])
def test_bytes_a_day_are_what_the_spool_writes(tmp_path: Path, tags: int) -> None:
    """For values of which every digit is noise; anything else takes less."""
    random = np.random.default_rng(7)
    table, clock = TagTable(), ManualClock()
    for number in range(tags):
        name = f"f{number}"
        table.add(Tag(name=f"a.{name}", asset="a", asset_class="c", field=name, measurement="c"))
    store = Store(tmp_path, SpoolSettings(), table, clock, Disk())
    store.open()
    ids, values = np.arange(tags, dtype=np.int32), random.uniform(0, 1000, tags)
    commits, before = 60, 0
    for number in range(2 * commits):
        clock.advance(1.0)
        values = values + random.normal(0, 1, tags)
        frame = Frame.of(clock.utc_ns(), ids, values)
        if number == commits:
            before = store.stats.bytes_written_total
        store.commit([Group(turns=[Turn(clock.utc_ns(), {Lane.RAW: frame})])])
    a_second = (store.stats.bytes_written_total - before) / commits
    assert bytes_per_day([(tags, 1.0)], 0.5) / DAY_S == pytest.approx(a_second, rel=0.25)


def test_a_tag_that_is_read_too_rarely_for_its_model_is_found(with_model: Path) -> None:
    bundle = with_model.parent / "models" / "press"
    write_bundle(bundle, fields=("pressure",), asset_class='"press"', sample_period='"10ms"')
    config = load(with_model)
    assert any("is read every" in problem.found for problem in check_models(config))
