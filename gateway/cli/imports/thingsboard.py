"""ThingsBoard Gateway's Modbus connector: `master.slaves` of its JSON file.

Source: the connector's documentation. `timeseries` and `attributes` become tags of one asset a
device; what the platform may set (`attributeUpdates`, `rpc`) needs limits that the file has not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.cli.imports.found import Found, FoundSource, Unfit, as_list, as_table, number
from gateway.sources.modbus.types import RegisterType

__all__ = ["collect"]

_TABLES = {1: "coil", 2: "discrete_input", 3: "holding_register", 4: "input_register"}
_PARITY = {"N": "none", "E": "even", "O": "odd"}
_ORDERS = {
    ("BIG", "BIG"): "ABCD",
    ("BIG", "LITTLE"): "CDAB",
    ("LITTLE", "BIG"): "BADC",
    ("LITTLE", "LITTLE"): "DCBA",
}
_PERIOD_MS = 5000


def collect(data: Mapping[str, Any], found: Found) -> None:
    """All devices of a connector."""
    master = as_table(data.get("master")) or data
    if data.get("slave"):
        found.leave_out("slave", "ThingsBoard's own Modbus server is not a device")
    for index, slave in enumerate(as_list(master.get("slaves"))):
        name = str(slave.get("deviceName") or slave.get("name") or f"device-{index + 1}")
        try:
            _device(slave, name, found)
        except Unfit as unfit:
            found.leave_out(name, str(unfit))


def _device(slave: Mapping[str, Any], name: str, found: Found) -> None:
    source = found.source(name, _keys(slave))
    unit_id = int(number(slave.get("unitId", 1), "unitId"))
    scan_class = source.scan_class(number(slave.get("pollPeriod", _PERIOD_MS), "pollPeriod") / 1000)
    asset_class = str(slave.get("deviceType") or "default")
    asset = found.asset(name, "modbus" if asset_class == "default" else asset_class, {})
    order = _ORDERS.get((
        str(slave.get("byteOrder", "LITTLE")).upper(), str(slave.get("wordOrder", "LITTLE")).upper()
    ))  # fmt: skip
    if order is None:
        raise Unfit("byteOrder and wordOrder are BIG or LITTLE")
    if slave.get("sendDataOnlyOnChange"):
        found.note(f"{name}: give its tags a deadband to send changes only")
    for key in ("attributeUpdates", "rpc"):
        for each in as_list(slave.get(key)):
            found.leave_out(
                f"{name}: {key}: {each.get('tag')}",
                "a tag that may be set needs limits: mark its row writable, with low and high",
            )
    for key in ("timeseries", "attributes"):
        for each in as_list(slave.get(key)):
            common = {"asset": asset, "unit_id": unit_id, "scan_class": scan_class}
            _value(source, each, f"{name}: {each.get('tag')}", common, order, found)


def _keys(slave: Mapping[str, Any]) -> dict[str, Any]:
    kind, method = str(slave.get("type", "tcp")), str(slave.get("method", "socket"))
    timeout = number(slave.get("timeout", 35), "timeout")
    keys: dict[str, Any]
    match kind:
        case "tcp" | "udp" | "tls":
            keys = {"type": "modbus-tcp", "host": str(slave.get("host", ""))}
            keys["port"] = int(number(slave.get("port", 502), "port"))
            if not keys["host"]:
                raise Unfit("it has no host")
            if kind == "udp":
                keys["transport"] = "udp"
            if kind == "tls" or slave.get("tls") or slave.get("security"):
                keys["tls"] = True
            if method in ("rtu", "ascii"):
                keys["framing"] = method
            elif method != "socket":
                raise Unfit(f"method {method} is unknown")
        case "serial":
            keys = {"type": "modbus-rtu", "device": str(slave.get("port", ""))}
            keys["baud_rate"] = slave.get("baudrate", 9600)
            parity = str(slave.get("parity", "N"))
            if parity not in _PARITY:
                raise Unfit(f"parity {parity} is none of N, E, O")
            keys |= {"parity": _PARITY[parity], "stop_bits": slave.get("stopbits", 1)}
            if method == "ascii":
                keys |= {"framing": "ascii", "data_bits": slave.get("bytesize", 8)}
        case _:
            raise Unfit(f"type {kind} is unknown")
    keys["response_timeout"] = f"{round(timeout * 1000)}ms"
    return keys


def _value(
    source: FoundSource,
    given: Mapping[str, Any],
    where: str,
    common: Mapping[str, Any],
    order: str,
    found: Found,
) -> None:
    with found.attempt(where):
        tag = str(given.get("tag", "")).strip()
        if not tag:
            raise Unfit("it has no tag")
        function = int(number(given.get("functionCode", 3), "functionCode"))
        table = _TABLES.get(function)
        if table is None:
            raise Unfit(f"function {function} is no read")
        kind, count = str(given.get("type", "")), _count(given)
        row = {**common, "table": table, "address": given.get("address")}
        if function <= 2:
            # One bit is a tag; several are one each, numbered as the platform shows them.
            first = int(number(given.get("address"), "address"))
            for i in range(count):
                bit = {"tag": tag if count == 1 else f"{tag}_{i}", "data_type": "bool"}
                found.add(source, where, **(row | bit | {"address": first + i}))
            return
        scale = number(given.get("multiplier", 1) or 1, "multiplier") / number(
            given.get("divider", 1) or 1, "divider"
        )
        data_type = _type(kind, count)
        row |= {"tag": tag, "data_type": data_type}
        if data_type == "string":
            row["length"] = count  # which ThingsBoard reads as it comes, whatever the orders
            found.add(source, where, **row)
            return
        row["byte_order"] = order
        if scale != 1.0:
            row["scale"] = float(f"{scale:.12g}")
        found.add(source, where, **row)


def _count(given: Mapping[str, Any]) -> int:
    """So many registers or bits; the key had other names in older versions."""
    for key in ("objectsCount", "registersCount", "registerCount"):
        if key in given:
            return int(number(given[key], key))
    return 1


def _type(kind: str, registers: int) -> str:
    """Types are written as "16int"; old files say "int" and the number of registers."""
    if kind == "string":
        return "string"
    bits = "".join(c for c in kind if c.isdecimal()) or str(16 * registers)
    family = {"int": "int", "uint": "uint", "float": "float", "long": "int", "double": "float"}.get(
        "".join(c for c in kind if c.isalpha())
    )
    name = f"{family}{bits}"
    if family is None or name not in set(RegisterType):
        raise Unfit(f"type {kind or 'none'} has no counterpart here")
    if int(bits) != 16 * registers:
        raise Unfit(f"type {kind} over {registers} registers")
    return name
