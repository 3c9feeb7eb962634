"""Endpoints: where a device is, in one word, for commands; what [[source]] says in several keys.

    tcp://192.168.1.10            tls://plc:802?tls_ca=ca.pem     udp://192.168.1.10:502
    rtu+tcp://10.0.0.5:4001       ascii+tcp://10.0.0.5:4001       rtu+udp://10.0.0.5:4001
    rtu:///dev/ttyUSB0?baud_rate=19200&parity=none                ascii:///dev/ttyUSB0?data_bits=7

Behind the question mark stands any key of the [[source]].
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import ValidationError

from gateway.errors import SluicegateError
from gateway.sources.modbus.config import (
    ModbusRtuSettings,
    ModbusSettings,
    ModbusTcpSettings,
    RegisterRow,
    Table,
)
from gateway.sources.modbus.types import RegisterType

__all__ = ["row_at", "settings_at"]

_NETWORK: Mapping[str, Mapping[str, Any]] = {
    "tcp": {},
    "tls": {"tls": True, "port": 802},
    "udp": {"transport": "udp"},
    "rtu+tcp": {"framing": "rtu"},
    "ascii+tcp": {"framing": "ascii"},
    "rtu+tls": {"framing": "rtu", "tls": True, "port": 802},
    "rtu+udp": {"framing": "rtu", "transport": "udp"},
}
_SERIAL = ("rtu", "ascii")
_REFERENCES = {
    "0": Table.COIL,
    "1": Table.DISCRETE_INPUT,
    "3": Table.INPUT_REGISTER,
    "4": Table.HOLDING_REGISTER,
}
_NO_COLUMNS: Mapping[str, Any] = {}
_HINT = "such as tcp://192.168.1.10:502 or rtu:///dev/ttyUSB0?baud_rate=19200&parity=even"


def settings_at(endpoint: str) -> ModbusSettings:
    """The settings of an endpoint; raises SluicegateError."""
    try:
        url = urlsplit(endpoint)
        port = url.port
        asked: dict[str, Any] = dict(parse_qsl(url.query, strict_parsing=bool(url.query)))
    except ValueError as error:
        raise SluicegateError(f"{endpoint!r}: {error}", hint=_HINT) from error
    common = {"name": "endpoint", "map": Path("endpoint")}
    kind: type[ModbusSettings]
    if url.scheme in _NETWORK and url.hostname:
        kind, known = ModbusTcpSettings, {"type": "modbus-tcp", **_NETWORK[url.scheme]}
        known["host"] = url.hostname
        if port is not None:
            known["port"] = port
    elif url.scheme in _SERIAL and url.path and not url.netloc:
        kind = ModbusRtuSettings
        known = {"type": "modbus-rtu", "framing": url.scheme, "device": url.path}
    else:
        raise SluicegateError(f"{endpoint!r} is not an endpoint", hint=_HINT)
    for key in ("baud_rate", "stop_bits", "data_bits"):  # of which only some numbers are taken
        if asked.get(key, "").isdecimal():
            asked[key] = int(asked[key])
    try:
        return kind.model_validate(asked | known | common)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        where, said, hint = ".".join(map(str, found["loc"])) or "it", found["msg"], _HINT
        if found["type"] == "extra_forbidden":
            near = get_close_matches(where, kind.model_fields, 1)
            said = "there is no such key"
            hint = f"did you mean {near[0]}?" if near else "its keys are those of a [[source]]"
        raise SluicegateError(f"{endpoint!r}: {where}: {said}", hint=hint) from error


def row_at(
    address: str,
    given: Mapping[str, Any] = _NO_COLUMNS,
    called: Mapping[str, str] = _NO_COLUMNS,
) -> RegisterRow:
    """The row of an address: "40101", "400101", "holding_register:100" or "100".

    `given` are other columns of a register map, `called` what they are called where they were
    given. With a table among them a bare number is an address, also one that looks like a
    reference. Raises SluicegateError.
    """
    table, colon, number = address.rpartition(":")
    is_bare = not colon and "table" not in given
    is_reference = is_bare and len(number) in (5, 6) and number[:1] in _REFERENCES
    columns: dict[str, Any] = {"asset": "at", "tag": address, **given}
    if is_reference and number.isdecimal():
        columns |= {"table": _REFERENCES[number[0]], "address": int(number[1:]) - 1}
    else:
        columns |= {"address": number} | ({"table": table} if colon else {})
    if columns.get("table") in (Table.COIL, Table.DISCRETE_INPUT):
        columns["data_type"] = RegisterType.BOOL
    try:
        return RegisterRow.model_validate(columns)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        column = ".".join(map(str, found["loc"]))
        if column in called and column in columns:
            said = f"{called[column]} {columns[column]}: {found['msg']}"
            raise SluicegateError(said, hint="see --help") from error
        raise SluicegateError(
            f"{address!r}: {column}: {found['msg']}",
            hint=f"write 40001, holding_register:0 or, with {called.get('table', 'a table')}, 0",
        ) from error
