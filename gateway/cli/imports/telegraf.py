"""Telegraf's `inputs.modbus`, in its styles register, request and metric.

Source: the plugin's documentation. A field is a tag; device, measurement and labels make an asset,
whose class is the measurement, so that points are called in a database what they were.

Variables (`${NAME}`, `${NAME:-default}`) are those of the environment, as for Telegraf.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from gateway.cli.imports.found import Found, FoundSource, Unfit, as_list, as_table, number
from gateway.settings import parse_duration
from gateway.sources.modbus.types import REGISTERS, RegisterType

__all__ = ["collect", "with_variables"]

_TABLES = {
    "coil": "coil",
    "discrete": "discrete_input",
    "holding": "holding_register",
    "input": "input_register",
}
_REGISTER_STYLE = {
    "coils": "coil",
    "discrete_inputs": "discrete_input",
    "holding_registers": "holding_register",
    "input_registers": "input_register",
}
_PARITY = {"N": "none", "E": "even", "O": "odd"}
# By letters: which of four orders a name of any length is.
_ORDERS = {
    "AB": "ABCD", "BA": "DCBA", "ABCD": "ABCD", "DCBA": "DCBA", "BADC": "BADC", "CDAB": "CDAB",
    "ABCDEFGH": "ABCD", "HGFEDCBA": "DCBA", "BADCFEHG": "BADC", "GHEFCDAB": "CDAB",
}  # fmt: skip
_BYTES = {
    "INT8L": "int8_low",
    "INT8H": "int8_high",
    "UINT8L": "uint8_low",
    "UINT8H": "uint8_high",
}
_VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}|\$([A-Za-z_]\w*)")
_WORKAROUNDS = {
    "max_word_registers_per_request": ("registers_max", int),
    "max_bit_registers_per_request": ("bits_max", int),
    "one_request_per_field": ("one_request_a_tag", bool),
    "pause_between_requests": ("request_pause", str),
    "pause_after_connect": ("connect_pause", str),
}
# Of what Go calls a duration, as in "1m30s".
_GO_PART = re.compile(r"(\d+(?:\.\d*)?)(h|ms|m|s|us|\u00b5s|ns)")
_GO_DURATION = re.compile(f"(?:{_GO_PART.pattern})+")
_GO_SECONDS = {
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "ns": 1e-9,
}
# What changes nothing for us: our planner does it itself, or it is about Telegraf's own work.
_OURS = {
    "optimization", "optimization_max_register_fill", "debug_connection", "busy_retries",
    "busy_retries_wait", "configuration_type", "name", "controller", "slave_id", "timeout",
    "interval", "baud_rate", "data_bits", "parity", "stop_bits", "transmission_mode", "request",
    "metric", "tags", "name_override", "workarounds", *_REGISTER_STYLE,
}  # fmt: skip


def collect(data: Mapping[str, Any], found: Found) -> None:
    """All `inputs.modbus` sections of a configuration."""
    inputs = as_table(data.get("inputs"))
    for other in inputs:
        if other != "modbus":
            found.leave_out(f"inputs.{other}", "only inputs.modbus is taken over")
    for other in data:
        if other.startswith(("outputs", "processors", "aggregators")):
            found.leave_out(other, "write a [[sink]] or an [[aggregate]] for it")
    agent_s = _seconds(as_table(data.get("agent")).get("interval", "10s"), found, "agent.interval")
    for index, section in enumerate(as_list(inputs.get("modbus"))):
        name = str(section.get("name") or f"modbus-{index + 1}")
        try:
            _Section(section, name, found, agent_s).collect(as_table(data.get("global_tags")))
        except Unfit as unfit:
            found.leave_out(name, str(unfit))


def with_variables(text: str, environment: Mapping[str, str]) -> tuple[str, list[str]]:
    """A configuration with the values of its variables, and the names of those that have none."""
    unknown: dict[str, None] = {}

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[3]
        if name in environment:
            return environment[name]
        if found[2] is not None:
            return str(found[2])
        unknown[name] = None
        return found[0]

    return _VARIABLE.sub(value, text), list(unknown)


def _seconds(value: object, found: Found, where: str, default: float = 10.0) -> float:
    text = str(value).strip()
    if _GO_DURATION.fullmatch(text):
        return sum(float(size) * _GO_SECONDS[unit] for size, unit in _GO_PART.findall(text))
    try:
        return parse_duration(text)
    except ValueError:
        found.leave_out(f"{where} = {value}", f"it is not understood; {default:g} s is taken")
        return default


class _Section:
    def __init__(self, section: Mapping[str, Any], name: str, found: Found, agent_s: float) -> None:
        self._section = section
        self._name = name
        self._found = found
        interval = section.get("interval")
        self._period_s = agent_s
        if interval is not None:
            self._period_s = _seconds(interval, found, f"{name}: interval", agent_s)
        self._units: set[int] = set()

    def collect(self, global_tags: Mapping[str, Any]) -> None:
        section, found = self._section, self._found
        source = found.source(self._name, self._keys())
        self._scan_class = source.scan_class(self._period_s)
        labels = {**global_tags, **as_table(section.get("tags"))}
        for key in section.keys() - _OURS:
            found.leave_out(f"{self._name}: {key}", "there is no such setting here")
        self._workarounds(source)
        requests, metrics = as_list(section.get("request")), as_list(section.get("metric"))
        self._units = {
            int(number(each.get("slave_id", 1), "slave_id")) for each in (*requests, *metrics)
        }
        for request in requests:
            self._request(source, request, labels, str(request.get("register", "holding")))
        for metric in metrics:
            self._request(source, metric, labels, "")
        for key, table in _REGISTER_STYLE.items():
            for given in as_list(section.get(key)):
                self._registers(source, given, table, labels)

    def _keys(self) -> dict[str, Any]:
        section = self._section
        controller = str(section.get("controller", ""))
        if variable := _VARIABLE.search(controller):
            name = variable[1] or variable[3]
            raise Unfit(f"controller {controller!r}: set {name} in the environment of this command")
        mode = str(section.get("transmission_mode", "")).lower()
        try:
            url = urlsplit(controller)
            port = url.port or 502
        except ValueError:
            raise Unfit(f"controller {controller!r} is no address") from None
        keys: dict[str, Any]
        if url.scheme == "tcp" and url.hostname:
            keys = {"type": "modbus-tcp", "host": url.hostname, "port": port}
            framing = {"rtuovertcp": "rtu", "asciiovertcp": "ascii"}.get(mode)
            if framing:
                keys["framing"] = framing
        elif url.scheme == "file" and url.path:
            keys = {"type": "modbus-rtu", "device": url.path}
            keys["baud_rate"] = section.get("baud_rate", 9600)
            parity = str(section.get("parity", "E"))
            if parity not in _PARITY:
                raise Unfit(f"parity {parity} is none of N, E, O")
            keys["parity"] = _PARITY[parity]
            keys["stop_bits"] = section.get("stop_bits", 1)
            if mode == "ascii":
                keys |= {"framing": "ascii", "data_bits": section.get("data_bits", 8)}
        else:
            raise Unfit(f"controller {controller!r}: only tcp:// and file:// are understood")
        timeout_s = _seconds(section.get("timeout", "1s"), self._found, f"{self._name}: timeout", 1)
        keys["response_timeout"] = f"{round(timeout_s * 1000)}ms"
        return keys

    def _workarounds(self, source: FoundSource) -> None:
        for key, value in as_table(self._section.get("workarounds")).items():
            ours, kind = _WORKAROUNDS.get(key, ("", object))
            if value in (False, "", "0s", "0ms"):
                continue
            if not ours or not isinstance(value, kind):
                self._found.leave_out(
                    f"{self._name}: workarounds.{key} = {value}", "there is no such setting here"
                )
            elif kind is str:
                seconds = _seconds(value, self._found, f"{self._name}: {key}", 0.0)
                source.keys[ours] = f"{round(seconds * 1000)}ms"
            else:
                source.keys[ours] = value

    def _asset(
        self, source: FoundSource, unit_id: int, measurement: str, labels: Mapping[str, Any]
    ) -> str:
        name = self._name if len(self._units) <= 1 else f"{self._name}-{unit_id}"
        # Sections may share a name: for Telegraf a unit id is a label of its own.
        return self._found.asset(name, measurement, labels, device=(source.name, unit_id))

    def _request(
        self,
        source: FoundSource,
        given: Mapping[str, Any],
        labels: Mapping[str, Any],
        register: str,
    ) -> None:
        unit_id = int(number(given.get("slave_id", 1), "slave_id"))
        override = self._section.get("name_override")
        measurement = str(given.get("measurement") or override or "modbus")
        labels = {**labels, **as_table(given.get("tags"))}
        for field in as_list(given.get("fields")):
            if field.get("omit"):
                continue
            where = f"{self._name}: unit {unit_id}: {field.get('name', 'a field without a name')}"
            with self._found.attempt(where):
                table = _TABLES.get(register or str(field.get("register", "holding")))
                if table is None:
                    raise Unfit(f"register {field.get('register', register)} is unknown")
                measured = str(field.get("measurement") or measurement)
                asset = self._asset(source, unit_id, measured, labels)
                order = str(given.get("byte_order", "ABCD"))
                kind = str(field.get("type", ""))
                facts = _facts(table, kind, order, field, 0, self._found)
                self._found.add(
                    source, where, asset=asset, tag=_named(field), unit_id=unit_id, table=table,
                    address=field.get("address"), scan_class=self._scan_class, **facts,
                )  # fmt: skip

    def _registers(
        self, source: FoundSource, given: Mapping[str, Any], table: str, labels: Mapping[str, Any]
    ) -> None:
        """A field of the original style: `address` lists each of its registers."""
        where = f"{self._name}: {given.get('name', 'a field without a name')}"
        with self._found.attempt(where):
            unit_id = int(number(self._section.get("slave_id", 1), "slave_id"))
            addresses = given.get("address")
            if not isinstance(addresses, list) or not addresses:
                raise Unfit("it has no address")
            first = addresses[0]
            if addresses != list(range(first, first + len(addresses))):
                raise Unfit(f"the registers {addresses} do not follow each other")
            measurement = given.get("measurement") or self._section.get("name_override")
            asset = self._asset(source, unit_id, str(measurement or "modbus"), labels)
            order, kind = str(given.get("byte_order", "AB")), str(given.get("data_type", ""))
            facts = _facts(table, kind, order, given, len(addresses), self._found)
            self._found.add(
                source, where, asset=asset, tag=_named(given), unit_id=unit_id, table=table,
                address=first, scan_class=self._scan_class, **facts,
            )  # fmt: skip


def _named(field: Mapping[str, Any]) -> str:
    name = str(field.get("name", "")).strip()
    if not name:
        raise Unfit("it has no name")
    return name


def _facts(
    table: str, kind: str, order: str, field: Mapping[str, Any], registers: int, found: Found
) -> dict[str, Any]:
    """Type, order, scale and length of a field; `registers` are those listed, 0 for none."""
    if table in ("coil", "discrete_input"):
        if str(field.get("output") or field.get("data_type") or "UINT16").upper() != "BOOL":
            found.note("coils and discrete inputs are true and false here, not 0 and 1")
        return {"data_type": "bool"}
    if order.upper() not in _ORDERS:
        raise Unfit(f"byte order {order} is unknown")
    scale = number(field.get("scale", 1.0) or 1.0, "scale")
    if kind.upper() == "BIT":
        bit = str(int(number(field.get("bit", 0), "bit")))
        return {"data_type": "uint16", "byte_order": _ORDERS[order.upper()], "bits": bit}
    data_type, length = _type(kind.upper().removesuffix("-IEEE"), kind, field, registers)
    facts: dict[str, Any] = {
        "data_type": data_type,
        "byte_order": _ORDERS[order.upper()],
        "length": length or None,
        "scale": None if scale == 1.0 else scale,
    }
    if data_type.startswith("float") and str(field.get("output", "")).upper().startswith(
        ("INT", "UINT")
    ):
        found.note(f"{field.get('name')}: output {field['output']}: the decimals stay here")
    return facts


def _type(kind: str, written: str, field: Mapping[str, Any], registers: int) -> tuple[str, int]:
    if kind == "STRING":
        length = registers or int(number(field.get("length", 0), "length"))
        if not length:
            raise Unfit("a STRING without length")
        return "string", length
    # For historic reasons FLOAT32 in the original style is an unsigned integer.
    is_fixed = (registers and kind in ("FIXED", "UFIXED")) or (registers and written == "FLOAT32")
    if is_fixed:
        bits = {1: "16", 2: "32", 4: "64"}.get(registers)
        if bits is None:
            raise Unfit(f"{kind} over {registers} registers")
        return ("int" if kind == "FIXED" else "uint") + bits, 0
    name = _BYTES.get(kind, kind.lower())
    if name not in set(RegisterType) or name in ("bool", "string"):
        raise Unfit(f"type {written or 'none'} has no counterpart here")
    if registers and REGISTERS.get(RegisterType(name), 1) != registers:
        raise Unfit(f"type {written} over {registers} registers")
    return name, 0
