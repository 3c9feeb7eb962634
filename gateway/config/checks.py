"""Checks: what no single key shows. Within an entry, between entries, and against this machine."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from gateway.asset import AssetSettings
from gateway.config.draft import Draft, Findings
from gateway.config.explain import Document, did_you_mean
from gateway.config.places import KeyPath
from gateway.config.planned import check_tags
from gateway.config.reference import size_text, toml_text
from gateway.config.schema import GatewaySettings
from gateway.errors import SluicegateError
from gateway.inference.config import ModelSettings
from gateway.settings import Secret
from gateway.sources.modbus.config import (
    ModbusRtuSettings,
    ModbusSettings,
    ModbusTcpSettings,
)
from gateway.sources.mqtt.config import MqttSettings, TopicSettings
from gateway.stages.config import AggregateSettings
from gateway.stages.windows import duration_text

__all__ = ["review"]

# A request and its answer take some milliseconds on a plant's network, and a turn gathers for ten.
SCAN_PERIOD_MIN_S = 0.02
# The spool makes its segments smaller rather than have fewer.
SEGMENTS_MIN = 16
DAY_S = 86_400
WINDOWS_KEPT_MAX = 1000  # as AggregateSettings has it
# Written by the gateway itself, or with a meaning of its own in InfluxDB.
_NAMED_LEVEL = re.compile(r"\{(asset|field)\}")
LABELS_RESERVED = ("asset", "gateway", "site", "time", "window")


def review(draft: Draft, document: Document, base: Path) -> Findings:
    """Everything wrong or doubtful; `base` is what relative paths are relative to."""
    found = Findings(document)
    for kind in ("source", "model", "sink"):
        _check_names(found, kind, getattr(draft, kind))
    if draft.gateway is not None:
        _check_gateway(found, draft.gateway, base)
    for index, source in draft.source.items():
        if isinstance(source, ModbusSettings):
            _check_modbus(found, ("source", index), source, base)
        else:
            _check_mqtt(found, ("source", index), source, base)
    _check_hosts(found, draft.source)
    for index, sink in draft.sink.items():
        _check_sink(found, ("sink", index), sink, base)
        if draft.gateway is not None and not draft.gateway.spool.raw and "raw" in sink.lanes:
            where = ("sink", index, "lanes")
            what = "the lane raw is sent, but [gateway.spool] has raw = false"
            found.warn(where, what, 'Take "raw" out of lanes, or keep raw frames.')
    for index, aggregate in draft.aggregate.items():
        _check_aggregate(found, ("aggregate", index), aggregate)
    for index, model in draft.model.items():
        _check_model(found, ("model", index), model, base)
    if draft.gateway is not None and draft.gateway.commands.broker:
        _check_commands(found, draft)
    _check_assets(found, draft.asset)
    check_tags(found, draft, base)
    return found


def _check_names(found: Findings, kind: str, entries: Mapping[int, Any]) -> None:
    first: dict[str, int] = {}
    for index, entry in entries.items():
        earlier = first.setdefault(entry.name, index)
        if earlier != index:
            line = found.document.line((kind, earlier, "name"))
            what = f"the name {toml_text(entry.name)} is taken by the [[{kind}]] at line {line}"
            found.problem((kind, index, "name"), what, "Give one of them another name.")


def _check_commands(found: Findings, draft: Draft) -> None:
    """Whether commands over MQTT can come, and whether there is anything they may set."""
    assert draft.gateway is not None
    name, where = draft.gateway.commands.broker, ("gateway", "commands", "broker")
    brokers = {s.name: s for s in draft.source.values() if isinstance(s, MqttSettings)}
    broker = brokers.get(name)
    written = found.document.data.get("source")
    if broker is None and any(
        isinstance(entry, dict) and (entry.get("type"), entry.get("name")) == ("mqtt", name)
        for entry in (written if isinstance(written, list) else ())
    ):
        return  # there is one, in which something else is wrong
    if broker is None:
        what = f"broker = {toml_text(name)} is no [[source]] of type mqtt"
        mend = did_you_mean(name, brokers) or "Name the source whose broker brings commands."
        found.problem(where, what, mend)
        return
    if not any(isinstance(s, ModbusSettings) and s.writes for s in draft.source.values()):
        what = "commands over MQTT may set nothing: no source has writes = true"
        found.warn(where, what, "Write it for the sources whose tags may be set.")
    if not broker.tls and not _is_here(broker.host):
        what = "commands cross the network unencrypted"
        found.warn(where, what, f"Write tls = true and port = 8883 for {toml_text(name)}.")


def _check_gateway(found: Findings, gateway: GatewaySettings, base: Path) -> None:
    _check_data_dir(found, base / gateway.data_dir)
    spool, largest = gateway.spool, gateway.spool.bytes_max // SEGMENTS_MIN
    where: KeyPath = ("gateway", "spool", "segment_bytes")
    if found.document.at(where) is not None and spool.segment_bytes > largest:
        what = (
            f"segment_bytes = {toml_text(size_text(spool.segment_bytes))} is more than a"
            f" {SEGMENTS_MIN}th of bytes_max = {toml_text(size_text(spool.bytes_max))}"
        )
        found.warn(where, what, f'Segments of "{size_text(largest)}" will be made.')
    if not gateway.http.enabled:
        return
    _check_secret(found, ("gateway", "http", "token"), gateway.http.token)
    where = ("gateway", "http", "listen")
    host, _, port = gateway.http.listen.rpartition(":")
    if 0 < int(port) < _unprivileged_port():
        what = f"listen = {toml_text(gateway.http.listen)} needs a privilege for its port"
        mend = 'Take a port from 1024 on, such as "127.0.0.1:8080", or let the service bind it.'
        found.warn(where, what, mend)
    if not ip_address(host.strip("[]")).is_loopback:
        what = f"listen = {toml_text(gateway.http.listen)} shows the page to the whole network"
        mend = (
            "Whoever is there can read it, and commands go over that network in the clear;"
            f' write "127.0.0.1:{port}" unless it is trusted.'
        )
        found.warn(where, what, mend)


def _check_data_dir(found: Findings, data_dir: Path) -> None:
    """Whether the spool could be made there; on this machine and for this user."""
    where = ("gateway", "data_dir")
    there = data_dir.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        what = f"data_dir = {toml_text(str(data_dir))}: {there} is a file, not a folder"
        found.problem(where, what, "Name a folder; it is made when it is not there.")
    elif not os.access(there, os.W_OK | os.X_OK):
        what = f"data_dir = {toml_text(str(data_dir))}: this user may not write in {there}"
        mend = "See that the user the gateway runs as may, or name another folder."
        found.warn(where, what, mend)


def _unprivileged_port() -> int:
    """The first port that any user may listen on."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text("ascii"))
    except (OSError, ValueError):
        return 1024


def _check_modbus(found: Findings, path: KeyPath, source: ModbusSettings, base: Path) -> None:
    if source.register_map is None and not source.profile:
        mend = 'Add map = "press.csv", or profile = "sunspec" for a device that has one.'
        found.problem((*path, "map"), "map is missing", mend)
    if "sunspec" in source.model_fields_set and not source.profile:
        mend = 'Add profile = "sunspec", or remove it.'
        found.problem((*path, "sunspec"), "sunspec means nothing without its profile", mend)
    if isinstance(source, ModbusRtuSettings) and not Path(source.device).exists():
        what = f"device = {toml_text(source.device)} is not there now"
        found.warn((*path, "device"), what, "Plug the adapter in; until then nothing is read.")
    if isinstance(source, ModbusTcpSettings):
        _check_tls_ca(found, path, source, base, used=source.tls)
        if source.tls_certificate and not (base / source.tls_certificate).is_file():
            what = f"tls_certificate = {toml_text(source.tls_certificate)}: there is no such file"
            mend = "Put certificate and key there, as PEM."
            found.problem((*path, "tls_certificate"), what, mend)
    _check_standby(found, (*path, "standby"), source)
    for name, period_s in source.scan_classes.items():
        where = (*path, "scan_classes", name)
        written = f'scan_classes.{name} = "{duration_text(period_s)}"'
        if period_s < SCAN_PERIOD_MIN_S:
            mend = f'Write "{duration_text(SCAN_PERIOD_MIN_S)}" or more.'
            found.problem(where, f"{written} is too fast for requests and answers", mend)
        elif source.response_timeout > period_s:
            what = (
                f"{written} is shorter than response_timeout ="
                f' "{duration_text(source.response_timeout)}"'
            )
            mend = (
                "One answer that does not come makes scans late;"
                f' write response_timeout = "{duration_text(period_s)}" or less.'
            )
            found.warn(where, what, mend)


def _check_standby(found: Findings, where: KeyPath, source: ModbusSettings) -> None:
    from gateway.sources.modbus.standby import standby_settings  # noqa: PLC0415 - if it is used

    try:
        standby = standby_settings(source)
    except SluicegateError as error:
        found.problem(where, error.message, f"{error.hint[:1].upper()}{error.hint[1:]}.")
        return
    if getattr(source, "tls", False) and standby is not None and not getattr(standby, "tls", False):
        what = f"standby = {toml_text(source.standby)} is not encrypted, the source is"
        found.warn(where, what, 'Write "tls://..." unless that network is trusted.')


def _check_mqtt(found: Findings, path: KeyPath, source: MqttSettings, base: Path) -> None:
    first: dict[str, int] = {}
    for number, topic in enumerate(source.topics):
        _check_topic(found, (*path, "topic", number), topic)
        for name, field in topic.fields.items():
            if field.low is not None and field.high is not None and field.low > field.high:
                where = (*path, "topic", number, "fields", name, "low")
                what = f"low = {field.low:g} is above high = {field.high:g}"
                found.problem(where, what, "Exchange them.")
        earlier = first.setdefault(_NAMED_LEVEL.sub("+", topic.pattern), number)
        if earlier != number:
            line = found.document.line((*path, "topic", earlier))
            what = f"pattern = {toml_text(topic.pattern)} is the same topics as at line {line}"
            mend = "Put them into one [[source.topic]]."
            found.problem((*path, "topic", number, "pattern"), what, mend)
    _check_login(found, path, source.username, source.password, "password")
    _check_tls_ca(found, path, source, base, used=source.tls)
    if source.port == 8883 and not source.tls:
        what = "port = 8883 is MQTT over TLS, but tls is false"
        found.warn((*path, "port"), what, "Write tls = true, or port = 1883.")
    elif source.password is not None and not source.tls and not _is_here(source.host):
        what = "the password crosses the network unencrypted"
        found.warn((*path, "password"), what, "Write tls = true and port = 8883.")


def _check_topic(found: Findings, path: KeyPath, topic: TopicSettings) -> None:
    """The pattern is a topic filter (MQTT 5, 4.7), and says where asset and field come from."""
    where, levels = (*path, "pattern"), topic.pattern.split("/")
    written = f"pattern = {toml_text(topic.pattern)}"
    for number, level in enumerate(levels, 1):
        mend = ""
        if level == "#" and number < len(levels):
            mend = "Only the last level can be #, which stands for all that follow."
        elif level not in _WHOLE_LEVELS and set(level) & set("#+{}"):
            mend = f"A level is text, or one of {', '.join(_WHOLE_LEVELS)}, between slashes."
        if mend:
            found.problem(where, f"{written}: level {number} is {toml_text(level)}", mend)
    _check_said_once(found, where, topic, "asset")
    if topic.payload == "value":
        _check_said_once(found, where, topic, "field")
        if topic.time:
            what = 'time is given, but payload = "value" is one bare value'
            found.problem((*path, "time"), what, 'Write payload = "json", or leave out time.')
    elif "{field}" in levels or topic.field:
        what = 'the field is given, but payload = "json" brings its own'
        found.problem(where, what, 'Write payload = "value", or leave out the field.')


def _check_said_once(found: Findings, where: KeyPath, topic: TopicSettings, key: str) -> None:
    """That the asset, or the field, comes from one level of the topic or from its key."""
    written, word = f"pattern = {toml_text(topic.pattern)}", f"{{{key}}}"
    count, given = topic.pattern.split("/").count(word), getattr(topic, key)
    if not count and not given:
        mend = f'Put {word} in the place of a level, or add {key} = "...".'
        found.problem(where, f"{written} does not say the {key}", mend)
    elif count + bool(given) > 1:
        besides = f", and {key} = {toml_text(given)}" if given else f" {count} times"
        found.problem(where, f"{written} has {word}{besides}", f"Say the {key} once.")


_WHOLE_LEVELS = ("+", "#", "{asset}", "{field}")


def _check_sink(found: Findings, path: KeyPath, sink: Any, base: Path) -> None:
    _check_once(found, (*path, "lanes"), sink.lanes)
    is_here = False
    match sink.type:
        case "file":
            return
        case "kafka":
            is_encrypted, mend = sink.tls, "Write tls = true."
            _check_brokers(found, (*path, "brokers"), sink.brokers)
        case _:
            url = _split(sink.url)
            if url is None:
                what = f"url = {toml_text(sink.url)} has no host, or a port that is not one"
                found.problem((*path, "url"), what, 'Write url = "http://127.0.0.1:8086".')
                return
            is_encrypted, is_here = url.scheme in ("https", "tls"), _is_here(url.hostname or "")
            mend = "Write a url that begins with https://."
    if hasattr(sink, "username"):
        _check_login(found, path, sink.username, sink.password, "password")
    if hasattr(sink, "token"):
        _check_secret(found, (*path, "token"), sink.token)
    _check_tls_ca(found, path, sink, base, used=is_encrypted)
    credentials = getattr(sink, "credentials", "")
    if credentials and not (base / credentials).is_file():
        what = f"credentials = {toml_text(credentials)}: there is no such file"
        mend = "Put the user's JWT and seed there; until then everything waits in the spool."
        found.warn((*path, "credentials"), what, mend)
    for key in ("token", "password"):
        if getattr(sink, key, None) is not None and not (is_encrypted or is_here):
            what = f"the {key} crosses the network unencrypted"
            found.warn((*path, key), what, mend)


def _check_brokers(found: Findings, path: KeyPath, brokers: str) -> None:
    for broker in map(str.strip, brokers.split(",")):
        if _split(f"kafka://{broker}") is None:
            what = f"{toml_text(broker)} is no host, or has a port that is none"
            found.problem(path, what, 'Write brokers = "10.0.0.1:9092".')


def _split(text: str) -> SplitResult | None:
    """The parts of a URL; None where its host or port is none."""
    try:
        url = urlsplit(text)
        is_right = bool(url.hostname) and url.port != 0
        (url.hostname or "").encode("idna")
    except ValueError:  # "http://[", "http://host:99999", "tcp://a..b:80"
        return None
    return url if is_right else None


def _check_login(
    found: Findings, path: KeyPath, username: str, secret: Secret | None, key: str
) -> None:
    if secret is not None and not username:
        found.problem((*path, key), f"{key} is given without username", 'Add username = "...".')
    elif username and secret is None:
        what, mend = f"username is given without {key}", f'Add {key} = "env:NAME" or "file:/path".'
        found.warn((*path, "username"), what, mend)
    _check_secret(found, (*path, key), secret)


def _check_secret(found: Findings, path: KeyPath, secret: Secret | None) -> None:
    """Whether a secret is there now. It may come later: it is read anew at each attempt."""
    if secret is None:
        return
    try:
        is_empty = not secret.read()
    except SluicegateError as error:
        meanwhile = {
            "source": "nothing is read from it",
            "gateway": "nobody can tell the gateway anything",
        }.get(str(path[0]), "everything waits in the spool")
        mend = f"{error.hint[:1].upper()}{error.hint[1:]}; until then {meanwhile}."
        found.warn(path, error.message, mend)
        return
    if is_empty:
        found.warn(path, f"{secret.reference} is empty", "Put the secret there.")


def _check_tls_ca(found: Findings, path: KeyPath, entry: Any, base: Path, *, used: bool) -> None:
    if not entry.tls_ca:
        return
    where, written = (*path, "tls_ca"), f"tls_ca = {toml_text(entry.tls_ca)}"
    if not used:
        found.problem(where, f"{written}, but the connection is not encrypted", _TLS_MEND)
    elif not (base / entry.tls_ca).is_file():
        mend = "Put the certificate of the authority there, as PEM."
        found.problem(where, f"{written}: there is no such file", mend)


_TLS_MEND = "Write tls = true (a sink: a url that begins with https://), or remove tls_ca."


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_mend(host: str) -> str:
    """What is to be written instead; "" for what may be a name or an address."""
    if "://" in host or "/" in host:
        return 'Write the name or address alone, such as "192.168.1.10"; the port is a key.'
    if host.count(":") == 1:
        name, _, port = host.partition(":")
        return f"Write host = {toml_text(name)} and port = {port or 502}."
    numbers = host.split(".")
    if all(part.isdecimal() for part in numbers):
        is_right = len(numbers) == 4 and all(int(part) <= 255 for part in numbers)
        return "" if is_right else "An address is four numbers up to 255."
    return ""


def _check_hosts(found: Findings, sources: Mapping[int, ModbusSettings | MqttSettings]) -> None:
    """Two connections to one device, or two clients that throw each other out of a broker."""
    first: dict[tuple[str, str], int] = {}
    for index, source in sources.items():
        if isinstance(source, (ModbusTcpSettings, MqttSettings)) and (
            mend := _host_mend(source.host)
        ):
            where: KeyPath = ("source", index, "host")
            found.problem(where, f"host = {toml_text(source.host)} is no host", mend)
        if isinstance(source, ModbusSettings):
            key = ("modbus", source.address.lower())
        else:
            key = ("mqtt", f"{source.host.lower()}:{source.port}")
        earlier = first.setdefault(key, index)
        if earlier == index:
            continue
        line = found.document.line(("source", earlier))
        rival, other = sources[earlier], f"the [[source]] at line {line}"
        if isinstance(source, ModbusRtuSettings):
            what = f"{source.address} is also read by {other}"
            mend = "A line has one master; put both maps into one."
            found.problem(("source", index, "device"), what, mend)
        elif isinstance(source, ModbusSettings):
            what = f"{source.address} is also read by {other}"
            mend = "Many devices take one connection only; put both maps into one."
            found.warn(("source", index, "host"), what, mend)
        elif isinstance(rival, MqttSettings) and source.client_id == rival.client_id != "":
            what = f"client_id = {toml_text(source.client_id)} is also used by {other}"
            mend = "The broker would throw out one for the other; give each its own."
            found.problem(("source", index, "client_id"), what, mend)


def _check_aggregate(found: Findings, path: KeyPath, aggregate: AggregateSettings) -> None:
    _check_once(found, (*path, "statistics"), aggregate.statistics)
    _check_once(found, (*path, "tags"), aggregate.tags)
    every = duration_text(aggregate.every)
    kept_s = aggregate.every * aggregate.windows_kept
    if aggregate.lateness >= kept_s:
        lateness = duration_text(aggregate.lateness)
        what = (
            f'lateness = "{lateness}" is not less than windows_kept x every'
            f" = {aggregate.windows_kept} x {every}"
        )
        windows = int(aggregate.lateness // aggregate.every) + 2
        mend = "Write a shorter lateness."
        if windows <= WINDOWS_KEPT_MAX:
            mend = f"Write windows_kept = {windows}, or a shorter lateness."
        found.problem((*path, "lateness"), what, mend)
    if DAY_S % aggregate.every and aggregate.every % DAY_S:
        what = f'every = "{every}" does not divide a day'
        mend = 'Windows then begin at other times each day; "1m", "15m" and "1h" do not.'
        found.warn((*path, "every"), what, mend)


def _check_once(found: Findings, path: KeyPath, words: Sequence[str]) -> None:
    for word, count in Counter(words).items():
        if count > 1:
            what = f"{toml_text(str(word))} stands in {path[-1]} {count} times"
            found.problem(path, what, "Write each once.")


def _check_model(found: Findings, path: KeyPath, model: ModelSettings, base: Path) -> None:
    """Whether the bundle is there. What is in it is for the engine, which can go on without."""
    bundle = base / model.bundle
    missing = [name for name in ("bundle.toml", "model.onnx") if not (bundle / name).is_file()]
    if missing:
        what = f"bundle = {toml_text(str(model.bundle))}: there is no {bundle / missing[0]}"
        mend = "Copy the whole folder there; until then this model gives no scores."
        found.warn((*path, "bundle"), what, mend)


def _check_assets(found: Findings, assets: Mapping[int, AssetSettings]) -> None:
    for index, asset in assets.items():
        for key, value in asset.labels.items():
            where, written = ("asset", index, "labels", key), f"labels.{key}"
            if key in LABELS_RESERVED:
                what = f"{written} is written by the gateway itself"
                found.problem(where, what, "Choose another word for this label.")
            elif not key or not value or not (key + value).isprintable():
                what = f"{written} = {toml_text(value)} is empty or has an invisible character"
                found.problem(where, what, "Write a word, or remove the label.")
        for earlier in range(index):
            pattern = assets[earlier].name if earlier in assets else ""
            if pattern and fnmatchcase(asset.name, pattern):
                line = found.document.line(("asset", earlier))
                what = f"name = {toml_text(asset.name)} is covered by the [[asset]] at line {line}"
                mend = "The first that matches decides: move this one above it, or remove it."
                found.problem(("asset", index, "name"), what, mend)
                break
