"""Learned: what a device refused and how long it takes, so how its map is cut; kept over restarts.

A file for each source, replaced as a whole. It is JSON, so that a person can look at it; what the
configuration says goes before it, and deleting it costs the refusals of one scan, and some tries.
"""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from gateway.sources.modbus.config import RegisterRow
from gateway.sources.modbus.plan import Learned, Place, Span, Verdict, place_of

__all__ = ["load_learned", "save_learned"]

log = logging.getLogger(__name__)

_BYTES_MAX = 16 * 2**20


def load_learned(path: Path | None, rows: Sequence[RegisterRow]) -> Learned:
    """What an earlier process learned of these rows; nothing, said, where it cannot be believed."""
    learned = Learned()
    if path is None:
        return learned
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(_BYTES_MAX))
        cuts: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        for unit_id, function, addresses in said["cuts"]:
            cuts[int(unit_id), int(function)] = {int(address) for address in addresses}
        refused = {tuple(map(int, place)) for place in said["refused"]}
        gaps: defaultdict[Place, dict[Span, Verdict]] = defaultdict(dict)
        for unit_id, function, first, end, verdict in said.get("gaps", ()):
            gaps[int(unit_id), int(function)][int(first), int(end)] = Verdict(verdict)
        answer_s = {int(unit_id): float(took_s) for unit_id, took_s in said.get("answer_s", ())}
    except (FileNotFoundError, NotADirectoryError):
        return learned
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        log.warning("modbus.learned_unusable path=%s error=%r", path, error)
        return learned
    learned.cuts, learned.gaps, learned.answer_s = cuts, gaps, answer_s
    learned.alone = {
        index for index, row in enumerate(rows) if (*place_of(row), row.address) in refused
    }
    return learned


def save_learned(path: Path, learned: Learned, rows: Sequence[RegisterRow]) -> None:
    """Replace the file; what cannot be written is learned anew by the next start."""
    said = {
        "cuts": [[*place, sorted(cuts)] for place, cuts in sorted(learned.cuts.items()) if cuts],
        "refused": sorted([*place_of(rows[i]), rows[i].address] for i in learned.alone),
        "gaps": [
            [*place, *span, verdict]
            for place, spans in sorted(learned.gaps.items())
            for span, verdict in sorted(spans.items())
        ],
        "answer_s": sorted([unit, round(took_s, 6)] for unit, took_s in learned.answer_s.items()),
    }
    new = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("w", encoding="utf-8") as file:
            json.dump(said, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        log.warning("modbus.learned_not_saved path=%s error=%s", path, error)
