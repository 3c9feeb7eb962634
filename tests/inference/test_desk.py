"""A running gateway is asked by files to try, promote and take back a bundle."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import SluicegateError
from gateway.frame import Frame
from gateway.inference import desk
from gateway.inference.config import ModelSettings
from gateway.inference.desk import What, answer_asks, ask
from gateway.inference.engine import Engine
from gateway.tag import TagTable
from tests.inference.bundles import FIELDS, write_bundle
from tests.samples import make_tag

SECOND = 10**9


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    table = TagTable()
    for field in FIELDS:
        table.add(make_tag(f"p.{field}"))
    said = {"name": "m", "bundle": write_bundle(tmp_path / "old"), "isolate": "never"}
    return Engine(
        [ModelSettings.model_validate(said)], table, Path(), directory=tmp_path / "models"
    )


async def asked(engine: Engine, folder: Path, what: What, bundle: Path | None = None) -> str:
    """What the asker is told, while the gateway looks after its desk."""
    asking = asyncio.create_task(asyncio.to_thread(ask, folder, "m", what, bundle))
    async with asyncio.timeout(60):
        while not asking.done():
            await answer_asks(engine, folder)
            await asyncio.wait([asking], timeout=0.02)
    ids = np.arange(len(FIELDS), dtype=np.int32)
    for t in range(1000, 1004):
        engine.apply(Frame.of(t * SECOND, ids, np.ones(len(FIELDS))), t * SECOND)
    return asking.result()


async def test_a_bundle_is_tried_promoted_and_taken_back_by_asking(
    engine: Engine, tmp_path: Path
) -> None:
    folder, new = tmp_path / "models", write_bundle(tmp_path / "new", version='"2"')
    assert "beside" in await asked(engine, folder, "shadow", new)
    assert engine.stats["m"].shadow_version == "2"
    assert "takes over" in await asked(engine, folder, "promote")
    assert engine.stats["m"].version == "2"
    assert "takes over again" in await asked(engine, folder, "roll back")
    assert engine.stats["m"].version == "1"
    await asked(engine, folder, "shadow", new)
    assert "ended" in await asked(engine, folder, "end shadow")
    assert engine.stats["m"].shadow_version == ""


async def test_what_is_wrong_is_told_to_who_asked(engine: Engine, tmp_path: Path) -> None:
    folder, new = tmp_path / "models", write_bundle(tmp_path / "new")
    (new / "model.onnx").write_bytes(b"spoilt")
    with pytest.raises(SluicegateError, match="sha256"):
        await asked(engine, folder, "shadow", new)
    with pytest.raises(SluicegateError, match="no shadow to promote"):
        await asked(engine, folder, "promote")
    assert engine.stats["m"].version == "1"


async def test_what_nobody_waits_for_any_more_is_not_done(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "models"
    await asked(engine, folder, "shadow", write_bundle(tmp_path / "new", version='"2"'))
    said = {"id": "1", "what": "promote", "at_s": time.monotonic() - 3600}
    for at_s in (said["at_s"], time.monotonic() + 3600, None, "now"):
        (folder / "m.ask.json").write_text(json.dumps(said | {"at_s": at_s}))
        await answer_asks(engine, folder)
        assert not (folder / "m.ask.json").exists()
    assert engine.stats["m"].version == "1"
    assert caplog.text.count("model.ask_too_old") == 4


def test_an_ask_goes_with_whoever_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(desk.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, "m", "promote")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", ["", "[]", "[" * 5000, '{"what": 7}', '{"id": 1, "what": "shadow"}']
)
async def test_an_ask_that_makes_no_sense_costs_nothing(
    engine: Engine, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "models" / "m.ask.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    await answer_asks(engine, tmp_path / "models")
    assert not file.exists()
    answer = tmp_path / "models" / "m.answer.json"
    assert not answer.exists() or json.loads(answer.read_text())["error"]


def test_where_nobody_answers_it_is_said_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "ANSWER_S_MAX", 0.3)
    with pytest.raises(SluicegateError, match="is it running"):
        ask(tmp_path, "m", "promote")
    assert not list(tmp_path.glob("*.ask.json"))
