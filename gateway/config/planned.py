"""Planned: which tags there will be, and whether what speaks of tags speaks of those.

Register maps name every tag. An MQTT topic may leave the asset or the fields to its messages;
then only a pattern of the names is known ("pump-*.*"), and what can match it is not accused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.asset import Assets, AssetSettings, UnknownAsset, tag_facts
from gateway.config.draft import Draft, Findings, MapReference
from gateway.config.explain import did_you_mean, legible, nearest
from gateway.config.places import KeyPath
from gateway.config.reference import toml_text
from gateway.errors import ConfigError, Problem, SluicegateError
from gateway.inference.config import ModelSettings
from gateway.settings import matches_any
from gateway.sources.modbus.config import (
    ModbusRtuSettings,
    ModbusSettings,
    RegisterRow,
    Table,
)
from gateway.sources.mqtt.config import FieldSettings, MqttSettings, TopicSettings
from gateway.stages.config import AggregateSettings
from gateway.stages.windows import duration_text
from gateway.tag import DataType, Tag

if TYPE_CHECKING:
    from gateway.config.offers import Offer
    from gateway.sources.modbus.rows import RegisterMap

__all__ = ["can_both_match", "check_tags", "is_covered"]

NAMES_LISTED_MAX = 5
# The rest is for devices to think, and for what has to be asked twice.
LINE_BUSY_MAX = 0.7
_WORDS = (Table.HOLDING_REGISTER, Table.INPUT_REGISTER)
_SET = re.compile(r"\[!?.[^\]]*\]")


def check_tags(found: Findings, draft: Draft, base: Path) -> None:
    """Plan the tags into `found`, and check what refers to them."""
    gateway = draft.gateway
    assets = Assets(
        tuple(draft.asset.values()),
        gateway=gateway.name if gateway else "",
        site=gateway.site if gateway else "",
    )
    before, assets_are_right = len(found.problems), _all_right(found, "asset", draft.asset)
    planner = _Planner(found, assets, judges_assets=assets_are_right)
    data_dir = base / gateway.data_dir if gateway else base
    _plan_sources(planner, draft, base, data_dir)
    for index, source in draft.source.items():
        if not isinstance(source, ModbusSettings) or min(source.periods.values()) <= 0:
            continue  # a rate that is none is told where it stands
        if source.name in found.register_maps:
            _check_line(found, ("source", index), source, data_dir)
    sources_are_right = _all_right(found, "source", draft.source)
    if len(found.problems) > before or not sources_are_right or not assets_are_right:
        return  # tags are missing; whoever speaks of them is not to blame
    if gateway is not None and len(found.tags) > gateway.tags_max:
        what = f"tags_max = {gateway.tags_max} is less than the {len(found.tags)} tags there are"
        found.problem(("gateway", "tags_max"), what, f"Write {len(found.tags)} or more.")
    for number, aggregate in draft.aggregate.items():
        _check_patterns(found, ("aggregate", number, "tags"), aggregate)
    _check_overlaps(found, draft.aggregate)
    for number, model in draft.model.items():
        _check_watched(found, ("model", number), model)
    _check_unused(found, draft.asset)
    _check_offers(found, draft, base)


def _plan_sources(planner: _Planner, draft: Draft, base: Path, data_dir: Path) -> None:
    """Add the tags of all sources: maps first, since people wrote those."""
    for index, reference in draft.maps.items():
        if reference.register_map is not None:
            planner.add_map(("source", index), reference, base / reference.register_map)
    for index, source in draft.source.items():
        if isinstance(source, MqttSettings):
            for number, topic in enumerate(source.topics):
                planner.add_topic(("source", index, "topic", number), source, topic)
        elif source.profile:
            planner.add_profile(("source", index), source, data_dir)


def _check_offers(found: Findings, draft: Draft, base: Path) -> None:
    """The map of what the gateway offers as a Modbus server, and whether it has such tags."""
    settings = draft.gateway.modbus_server if draft.gateway is not None else None
    if settings is None or not settings.listen:
        return
    from gateway.config.offers import ALARM, load_offers  # noqa: PLC0415 - if it is used

    where: KeyPath = ("gateway", "modbus_server", "map")
    try:
        offers = load_offers(base / settings.map)
    except ConfigError as error:
        found.problems.extend(error.problems)
        return
    except SluicegateError as error:
        found.problem(where, error.message, error.hint)
        return
    assets = {tag.asset for tag in found.tags.values()}
    models = {model.name for model in draft.model.values()}
    for offer in offers:
        asset, _, name = offer.tag.removesuffix(ALARM).rpartition(".")
        is_alarm = offer.tag.endswith(ALARM)
        is_known = asset in assets and name in models if is_alarm else offer.tag in found.tags
        may_come = "@" in offer.tag or any(can_both_match(offer.tag, n) for n in found.open_names)
        is_derived = not is_alarm and any(f".{model}." in offer.tag for model in models)
        if (tag := found.tags.get(offer.tag)) is not None:
            _check_offer(found, where, offer, tag)
        if is_known or may_come or is_derived:
            continue
        near = did_you_mean(offer.tag, found.tags)
        mend = near or "Offer a tag that `sluicegate check` lists, or a score or alarm of a model."
        found.warn(where, f"{settings.map} offers {offer.tag}, which is no tag", mend)


def _check_offer(found: Findings, where: KeyPath, offer: Offer, tag: Tag) -> None:
    """Whether what is offered can be what the tag is."""
    what = ""
    if tag.data_type is DataType.STRING:
        what = f"{offer.tag} is a text, and offered as {offer.data_type}: it is bad for ever"
    elif not offer.is_signed and -math.inf < tag.eu_low < 0:
        what = f"{offer.tag} goes down to {tag.eu_low:g}, and is offered as {offer.data_type}"
    if what:
        found.warn(where, what, "Offer numbers only, in a type that holds them.")


def _check_line(found: Findings, path: KeyPath, source: ModbusSettings, data_dir: Path) -> None:
    """Whether the line or connection can carry what is to be read over it."""
    from gateway.sources.modbus.learned import load_learned  # noqa: PLC0415 - if it is used
    from gateway.sources.modbus.line import loads  # noqa: PLC0415 - if it is used
    from gateway.sources.modbus.plan import width_of  # noqa: PLC0415 - if it is used

    rows = found.register_maps[source.name]
    wide = [row for row in rows if row.table in _WORDS and width_of(row) > source.registers_max]
    for row in wide[:NAMES_LISTED_MAX]:
        what = (
            f"{row.asset}.{row.tag} takes {width_of(row)} registers, and a request"
            f" {source.registers_max} at most"
        )
        mend = "Raise registers_max, or leave the tag out: it cannot be read in parts."
        found.problem((*path, "registers_max"), what, mend)
    shares = loads(rows, source)
    busy = sum(share for _, share in shares)
    if busy <= LINE_BUSY_MAX:
        learned = load_learned(data_dir / "sources" / f"{source.name}.json", rows)
        busy = sum(share for _, share in loads(rows, source, learned))
        if busy > LINE_BUSY_MAX:  # a device that was slow once is no reason to refuse anything
            what = f"{source.address} would be busy for {busy:.0%} of the time, as measured before"
            mend = (
                "Give some of its tags a slower scan class, or say what is right with answer_time."
            )
            found.warn((*path, "scan_classes"), what, mend)
        return
    worst, share = max(shares, key=lambda each: each[1])
    tags = [f"{row.asset}.{row.tag}" for row in rows if row.scan_class == worst.scan_class]
    named = ", ".join(tags[:NAMES_LISTED_MAX]) + ", ..." * (len(tags) > NAMES_LISTED_MAX)
    is_known = bool(source.answer_time or source.request_pause)
    if isinstance(source, ModbusRtuSettings):
        is_known = True
        given, otherwise = f" at {source.baud_rate} baud", "raise baud_rate"
    elif is_known:
        given, otherwise = "", "raise in_flight if the device allows it"
    else:
        given, otherwise = ", if an answer takes 1 ms", "say what it takes with answer_time"
    what = (
        f"{source.address} would be busy for {busy:.0%} of the time{given},"
        f" {share:.0%} of it with the scan class {toml_text(worst.scan_class)}"
    )
    mend = f"Give some of its tags a slower scan class ({named}), or {otherwise}."
    where = (*path, "scan_classes")
    # What nobody has told is no reason to refuse anything.
    if busy > 1 and is_known:
        found.problem(where, what, mend)
    else:
        found.warn(where, what, mend)


def is_covered(tag: Tag, aggregate: AggregateSettings) -> bool:
    """Whether an [[aggregate]] makes windows of a tag."""
    return tag.data_type is not DataType.STRING and matches_any(tag.name, aggregate.tags)


def can_both_match(one: str, other: str) -> bool:
    """Whether some name matches both shell-style patterns (a set `[ab]` is taken as any letter)."""
    one, other = _SET.sub("?", one), _SET.sub("?", other)

    # meets[j]: whether what is left of `one` and other[j:] can match the same; from the end back.
    meets = [not other[j:].strip("*") for j in range(len(other) + 1)]
    for i in range(len(one) - 1, -1, -1):
        after = meets
        meets = [False] * len(other) + [not one[i:].strip("*")]
        for j in range(len(other) - 1, -1, -1):
            if one[i] == "*" or other[j] == "*":
                meets[j] = after[j] or meets[j + 1]
            else:
                meets[j] = after[j + 1] and (one[i] == other[j] or "?" in (one[i], other[j]))
    return meets[0]


class _Planner:
    """Adds the tags of one source after the other."""

    def __init__(self, found: Findings, assets: Assets, *, judges_assets: bool) -> None:
        self._found = found
        self._assets = assets
        self._judges_assets = judges_assets
        self._home: dict[str, str] = {}  # tag name -> where it was defined first

    def add_map(self, path: KeyPath, source: MapReference, file: Path) -> None:
        """The tags of a register map."""
        from gateway.sources.modbus.rows import load_register_map  # noqa: PLC0415 - if it is used

        classes = source.scan_classes
        if source.profile:
            classes = {"default": 1.0, "slow": 1.0} | classes
        register_map = load_register_map(file, classes)
        self._found.problems += map(legible, register_map.problems)
        self._found.register_maps[source.name] = register_map.rows
        undeclared: dict[str, list[int]] = {}
        for number, row in zip(register_map.numbers, register_map.rows, strict=True):
            try:
                tag = self._assets.tag(
                    row.asset,
                    row.tag,
                    source=source.name,
                    **tag_facts(row),
                )
            except UnknownAsset:
                undeclared.setdefault(row.asset, []).append(number)
                continue
            there = self._add(tag, f"{file}, row {number}")
            if there:
                what = f"the tag {toml_text(tag.name)} is also in {there}"
                self._row_problem(file, number, "tag", what, "Give one of them another name.")
        for asset, numbers in undeclared.items():
            if self._judges_assets:
                self._undeclared(file, asset, numbers)
        self._check_never_read(source, register_map, file)
        if not register_map.problems and not source.profile:
            self._check_scan_classes(path, source, register_map.rows)

    def add_profile(self, path: KeyPath, source: ModbusSettings, data_dir: Path) -> None:
        """The tags that a device had when it was asked the last time; others may come."""
        from gateway.sources.modbus.sunspec.profile import Profile, file_of  # noqa: PLC0415 - likewise

        where: KeyPath = (*path, "profile")
        if source.sunspec.units:
            where = (*path, "sunspec", "units")
        for asset in source.units.values():
            try:
                self._assets.find(asset)
            except UnknownAsset:
                if self._judges_assets:
                    what = f"asset {toml_text(asset)} is not declared"
                    self._found.problem(where, what, self._declare(asset))
                continue
            self._found.open_names.append(f"{asset}.*")
        profile = Profile(source, file_of(data_dir / "sources", source.name))
        rows = []
        for row in profile.rows:
            try:
                tag = self._assets.tag(row.asset, row.tag, source=source.name, **tag_facts(row))
            except UnknownAsset:
                continue
            there = self._add(tag, f"what the device of {source.name} had")
            if there:
                what = f"the tag {toml_text(tag.name)} is also in {there}: it is not read from here"
                self._found.warn(where, what, "Give one of them another asset.")
            else:
                rows.append(row)
        own = self._found.register_maps.get(source.name, ())
        self._found.register_maps[source.name] = (*own, *rows)
        for unit_id in profile.unknown:
            what = f"unit id {unit_id} has not been asked yet: its tags are not known"
            mend = "The first start asks it, and it is known from then on."
            self._found.warn((*path, "profile"), what, mend)

    def add_topic(self, path: KeyPath, source: MqttSettings, topic: TopicSettings) -> None:
        """The tags of a topic, or patterns of their names where its messages decide."""
        fields: Sequence[str] = tuple(topic.fields) or ("*",)
        if topic.payload == "value":
            fields = ("*",) if "{field}" in topic.pattern else (topic.field,)
        if not topic.asset:
            declared = [entry.name for entry in self._assets.entries]
            self._found.open_names += [f"{asset}.{name}" for asset in declared for name in fields]
            return
        for name in fields:
            facts = topic.fields.get(name, FieldSettings())
            try:
                tag = self._assets.tag(
                    topic.asset,
                    name,
                    source=source.name,
                    **tag_facts(facts),
                )
            except UnknownAsset:
                if self._judges_assets:
                    where = (*path, "asset")
                    what = f"asset = {toml_text(topic.asset)} is not declared"
                    self._found.problem(where, what, self._declare(topic.asset))
                return
            if name == "*":
                self._found.open_names.append(tag.name)
                continue
            line = self._found.document.line(path)
            there = self._add(tag, f"the [[source.topic]] at line {line}")
            if there:
                what = f"the tag {toml_text(tag.name)} is also in {there}"
                self._found.problem(path, what, "Give one of them another asset or field name.")

    def _check_never_read(
        self, source: MapReference, register_map: RegisterMap, file: Path
    ) -> None:
        from gateway.sources.modbus.plan import width_of  # noqa: PLC0415 - if it is used

        for number, row in zip(register_map.numbers, register_map.rows, strict=True):
            for never in source.never_read:
                end = row.address + width_of(row)
                if row.table is never.table and row.address <= never.last and end > never.first:
                    what = f"the tag is in {never.table} {never.first}-{never.last} of never_read"
                    mend = "Remove the row, or take its address out of never_read."
                    self._row_problem(file, number, "address", what, mend)

    def _add(self, tag: Tag, home: str) -> str:
        """Where a tag of this name is already; "" when it was added."""
        there = self._home.setdefault(tag.name, home)
        if there != home:
            return there
        self._found.tags[tag.name] = tag
        return ""

    def _row_problem(self, file: Path, number: int, column: str, found: str, mend: str) -> None:
        place = f"row {number}, column {column}"
        problem = Problem(file=str(file), place=place, found=found, mend=mend)
        self._found.problems.append(legible(problem))

    def _undeclared(self, file: Path, asset: str, numbers: list[int]) -> None:
        more = f" (and in {len(numbers) - 1} more rows)" if len(numbers) > 1 else ""
        what = f"asset {toml_text(asset)} is not declared{more}"
        self._row_problem(file, numbers[0], "asset", what, self._declare(asset))

    def _declare(self, asset: str) -> str:
        said = f'Add [[asset]] with name = {toml_text(asset)} and class = "...".'
        return " ".join(
            filter(None, (said, did_you_mean(asset, [e.name for e in self._assets.entries])))
        )

    def _check_scan_classes(
        self, path: KeyPath, source: MapReference, rows: Sequence[RegisterRow]
    ) -> None:
        used = {row.scan_class for row in rows}
        for name in source.scan_classes:
            if name not in used:
                what = f"no row of {source.register_map} has the scan class {toml_text(name)}"
                mend = "Remove it, or write it in the map's column scan_class."
                self._found.warn((*path, "scan_classes", name), what, mend)


def _all_right(found: Findings, kind: str, entries: Mapping[int, object]) -> bool:
    """Whether every entry of a kind is right by itself."""
    listed = found.document.at((kind,))
    return len(entries) == (len(listed) if isinstance(listed, list) else 0)


def _check_patterns(found: Findings, path: KeyPath, aggregate: AggregateSettings) -> None:
    """Each pattern covers some tag, or some that a message may bring."""
    for index, pattern in enumerate(aggregate.tags):
        fitting = [tag for name, tag in found.tags.items() if fnmatchcase(name, pattern)]
        may_come = any(can_both_match(pattern, name) for name in found.open_names)
        written = f"{toml_text(pattern)} in tags"
        if not fitting and not may_come:
            found.problem((*path, index), f"{written} matches no tag", _which(found, pattern))
        elif not may_come and all(tag.data_type is DataType.STRING for tag in fitting):
            what = f"{written} matches text only"
            found.problem((*path, index), what, "Text has no mean; name tags that are numbers.")


def _which(found: Findings, pattern: str) -> str:
    names = list(found.tags)
    near = nearest(pattern, names)
    if near:
        return f"The nearest tag is {toml_text(near)}."
    listed = ", ".join(names[:NAMES_LISTED_MAX]) or "none before the first message"
    more = f", and {len(names) - NAMES_LISTED_MAX} more" if len(names) > NAMES_LISTED_MAX else ""
    return f"A tag is <asset>.<field>, and * stands for anything. The tags: {listed}{more}."


def _check_overlaps(found: Findings, aggregates: Mapping[int, AggregateSettings]) -> None:
    """Two windows of one length over one tag would both write the same series."""
    for index, one in aggregates.items():
        for earlier, other in aggregates.items():
            if earlier >= index or one.every != other.every:
                continue
            tags = found.tags.values()
            both = next((t.name for t in tags if is_covered(t, one) and is_covered(t, other)), "")
            if both and set(one.statistics) & set(other.statistics):
                line = found.document.line(("aggregate", earlier))
                what = (
                    f'{both} has windows of "{duration_text(one.every)}" already,'
                    f" by the [[aggregate]] at line {line}"
                )
                mend = "Take the tag out of one of them, or give one another length."
                found.problem(("aggregate", index), what, mend)


def _check_watched(found: Findings, path: KeyPath, model: ModelSettings) -> None:
    """Each pattern of a model matches some asset of its class."""
    known = {tag.asset: tag.asset_class for tag in found.tags.values()}
    for index, pattern in enumerate(model.assets):
        classes = {known[asset] for asset in known if fnmatchcase(asset, pattern)}
        may_come = any(can_both_match(f"{pattern}.*", name) for name in found.open_names)
        if may_come or (classes and model.asset_class in {"", *classes}):
            continue
        where: KeyPath = (*path, "assets", index)
        what = f"{toml_text(pattern)} in assets matches no asset"
        if classes:
            what += f" of the class {toml_text(model.asset_class)}"
            where = (*path, "class")
            mend = (
                did_you_mean(model.asset_class, classes) or f"It is {', '.join(sorted(classes))}."
            )
        else:
            listed = ", ".join(list(known)[:NAMES_LISTED_MAX])
            mend = did_you_mean(pattern, known) or f"The assets: {listed}."
        found.problem(where, what, mend)


def _check_unused(found: Findings, assets: Mapping[int, AssetSettings]) -> None:
    """An [[asset]] without any tag is most likely misspelt."""
    if found.open_names:
        return
    for index, entry in assets.items():
        if not any(fnmatchcase(tag.asset, entry.name) for tag in found.tags.values()):
            what = f"no tag belongs to name = {toml_text(entry.name)}"
            names = dict.fromkeys(tag.asset for tag in found.tags.values())
            mend = did_you_mean(entry.name, names) or "Remove it, or add its tags."
            found.warn(("asset", index, "name"), what, mend)
