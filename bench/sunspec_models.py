"""Make gateway/sources/modbus/sunspec/models.json from the SunSpec Alliance's own definitions.

    SLUICEGATE_SHARED=../shared python -m bench.sunspec_models

Facts are carried over: names, types, sizes, scale factors, units, symbols, how groups repeat.
Labels and descriptions are not. A model a line, so that a change of one shows as one; `models.py`
beside it says what the lists mean. Makers' own models (63000 and above) are left out.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("SLUICEGATE_SHARED", ROOT.parent / "shared"))
MODELS = SHARED / "data" / "sunspec" / "json"
TARGET = ROOT / "gateway" / "sources" / "modbus" / "sunspec" / "models.json"
# What a maker defines for himself has no meaning on another's device.
VENDORS_FROM = 63000
# Every form of a measurement has one name, so that a plant of several makers has one set of tags.
FAMILIES = {
    "inverter": (101, 102, 103, 111, 112, 113),
    "meter": (201, 202, 203, 204, 211, 212, 213, 214),
}
_FAMILY = {model: name for name, models in FAMILIES.items() for model in models}


def _point(point: dict[str, Any]) -> list[Any]:
    """[name, type, size, scale factor, unit, is slow, [[number, symbol], ...]], less its empty end.

    Slow is what a device never changes by itself: nameplates and settings.
    """
    symbols = [[each["value"], each["name"]] for each in point.get("symbols", ())]
    is_slow = int(point.get("static") == "S" or point.get("access") == "RW")
    facts = [
        *(point["name"], point["type"], point["size"], point.get("sf", 0)),
        *(point.get("units", "").strip(), is_slow, symbols),
    ]
    while not facts[-1]:
        facts.pop()
    return facts


def _group(group: dict[str, Any], skipped: int = 0) -> list[Any]:
    """[name, how often, points, groups]; 0 as often as the model has room, null once."""
    points = [_point(each) for each in group["points"][skipped:]]
    groups = [_group(each) for each in group.get("groups", ())]
    return [group["name"], group.get("count"), points, groups]


def main() -> None:
    """Write the table."""
    models: dict[int, list[Any]] = {}
    for path in MODELS.glob("model_*.json"):
        definition = json.loads(path.read_text(encoding="utf-8"))
        if definition["id"] < VENDORS_FROM:
            header = [point["name"] for point in definition["group"]["points"][:2]]
            assert header == ["ID", "L"], path
            models[definition["id"]] = _group(definition["group"], skipped=2)
    for model, name in _FAMILY.items():
        models[model][0] = name
    lines = [
        f'"{model}":{json.dumps(models[model], separators=(",", ":"))}' for model in sorted(models)
    ]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{len(models)} models, {TARGET.stat().st_size:,} bytes: {TARGET}")


if __name__ == "__main__":
    main()
