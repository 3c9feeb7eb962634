"""What a [[source]] of type "modbus-tcp" may say, and a row of its register map."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field

from gateway.settings import Seconds, Settings
from gateway.tag import ByteOrder, DataType

__all__ = ["ModbusSettings", "RegisterRow", "Table"]


class Table(StrEnum):
    """The four tables of the Modbus data model (Application Protocol 1.1b3, 4.3)."""

    COIL = "coil"
    DISCRETE_INPUT = "discrete_input"
    INPUT_REGISTER = "input_register"
    HOLDING_REGISTER = "holding_register"


class ModbusSettings(Settings):
    """One connection to a Modbus TCP device, or to a gateway with several unit ids behind it."""

    type: Literal["modbus-tcp"]
    name: str = Field(min_length=1)
    host: str = Field(min_length=1)
    port: int = Field(default=502, ge=1, le=65535)
    register_map: Path = Field(alias="map", description="CSV file, relative to this file")
    scan_classes: dict[str, Seconds] = Field(
        default={"default": 1.0}, description='name -> scan period, such as {fast = "200ms"}'
    )
    response_timeout: Seconds = 1.0
    connect_timeout: Seconds = 3.0
    registers_max: int = Field(default=125, ge=1, le=125, description="most registers a request")
    bits_max: int = Field(default=2000, ge=1, le=2000, description="most coils or inputs a request")
    gap_max: int = Field(
        default=8, ge=0, le=124, description="largest gap of unused registers to read over"
    )


class RegisterRow(Settings):
    """One row of a register map: one tag."""

    asset: str = Field(min_length=1)
    tag: str = Field(min_length=1)
    unit_id: int = Field(default=1, ge=0, le=255)
    table: Table = Table.HOLDING_REGISTER
    address: int = Field(ge=0, le=65535, description="zero-based protocol address")
    data_type: DataType = DataType.UINT16
    length: int = Field(default=0, ge=0, le=125, description="registers of a string")
    byte_order: ByteOrder = ByteOrder.ABCD
    scale: float = 1.0
    offset: float = 0.0
    eng_unit: str = ""
    scan_class: str = "default"
    deadband: float = Field(default=0.0, ge=0.0)
    low: float | None = None
    high: float | None = None
