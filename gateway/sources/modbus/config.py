"""What a Modbus [[source]] may say, and a row of its register map."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from gateway.settings import Name, NamedPath, Seconds, Settings
from gateway.sources.modbus.types import RegisterType
from gateway.tag import ByteOrder, DataType

__all__ = [
    "AddressRange",
    "ModbusRtuSettings",
    "ModbusSettings",
    "ModbusTcpSettings",
    "RegisterRow",
    "SunSpecSettings",
    "Table",
]

# Of nameplates and settings; whoever changes one looks at it before ten minutes are over, or asks.
SLOW_PERIOD_S = 600.0


class Table(StrEnum):
    """The four tables of the Modbus data model (Application Protocol 1.1b3, 4.3)."""

    COIL = "coil"
    DISCRETE_INPUT = "discrete_input"
    INPUT_REGISTER = "input_register"
    HOLDING_REGISTER = "holding_register"


@dataclass(frozen=True, slots=True)
class _Range:
    """Addresses of one table, both ends included."""

    table: Table
    first: int
    last: int


def _range(value: Any) -> Any:
    if isinstance(value, _Range):
        return value
    words = value.replace(":", " ").split() if isinstance(value, str) else []
    first, _, last = words[1].partition("-") if len(words) == 2 else ("", "", "")
    is_range = first.isdecimal() and (last or first).isdecimal() and words[0] in tuple(Table)
    if not is_range or not int(first) <= int(last or first) <= 65535:
        raise ValueError('write a table and addresses, such as "holding_register 100-199"')
    return _Range(Table(words[0]), int(first), int(last or first))


AddressRange = Annotated[
    Any,
    BeforeValidator(_range),
    WithJsonSchema({"type": "string", "examples": ["holding_register 100-199"]}),
]


def _unit_ids(units: dict[str, str]) -> dict[str, str]:
    for unit_id in units:
        if not (unit_id.isdecimal() and unit_id.isascii() and int(unit_id) <= 255):
            raise ValueError(f'write unit ids before assets, such as {{ 1 = "roof" }}: {unit_id!r}')
    return {str(int(unit_id)): asset for unit_id, asset in units.items()}


# Sixteen bytes: what a request and the frame of its answer take by themselves, on any line.
GAP_MAX = 8


class SunSpecSettings(Settings):
    """What of a SunSpec device is read, where the defaults do not fit."""

    units: Annotated[dict[str, str], AfterValidator(_unit_ids)] = Field(
        default_factory=dict,
        description="asset of each unit id; none = unit id 1, an asset named like the source",
        examples=[{"1": "roof", "240": "roof-meter"}],
    )
    base: int | None = Field(
        default=None,
        ge=0,
        le=65000,
        description="address of its marker; looked for at 40000, 50000 and 0 when not given",
    )
    models: tuple[Annotated[int, Field(ge=1, le=65534)], ...] = Field(
        default=(), description="model ids to read; none = all that measure", examples=[[103, 160]]
    )
    points: tuple[str, ...] = Field(
        default=("*",),
        min_length=1,
        description="patterns of points, with or without the model's name",
        examples=[["W", "WH", "mppt.*"]],
    )


class ModbusSettings(Settings):
    """What every Modbus [[source]] has: its name, its map, and how it is read."""

    type: str
    name: Name = Field(description="what logs, metrics and the page call it", examples=["press"])
    register_map: NamedPath | None = Field(
        default=None,
        alias="map",
        description="CSV file of the tags, beside the configuration; required without a profile",
        examples=["press.csv"],
    )
    profile: Literal["", "sunspec"] = Field(
        default="",
        description='"sunspec": the device says what it has; a map may add to that',
        examples=["sunspec"],
    )
    sunspec: SunSpecSettings = Field(
        default=SunSpecSettings(), description="what is read with that profile"
    )
    scan_classes: dict[str, Seconds] = Field(
        default={"default": 1.0},
        min_length=1,
        description="scan period of each scan class that the map names",
        examples=[{"default": "1s", "fast": "200ms"}],
    )
    writes: bool = Field(
        default=False,
        description="tags that the map marks writable may be set; without it nothing can be",
    )
    response_timeout: Seconds = Field(default=1.0, gt=0, description="for one whole answer")
    registers_max: int = Field(default=125, ge=1, le=125, description="most registers a request")
    bits_max: int = Field(default=2000, ge=1, le=2000, description="most coils or inputs a request")
    gap_max: int | None = Field(
        default=None,
        ge=0,
        le=124,
        description="largest gap of unused registers to read over;"
        " not told: 8, and larger ones where that was measured to be quicker",
    )
    one_request_a_tag: bool = Field(
        default=False, description="for devices that answer nothing but what a tag is made of"
    )
    never_read: tuple[AddressRange, ...] = Field(
        default=(),
        description="addresses that no request may touch, not even in a gap",
        examples=[["holding_register 100-199"]],
    )
    request_pause: Seconds = Field(
        default=0.0, ge=0, le=10, description="between an answer and the next request"
    )
    answer_time: Seconds | None = Field(
        default=None,
        gt=0,
        le=60,
        description="what the device takes to answer, for the check of its schedule; not told:"
        " as measured before; before that 1 ms over TCP, and nothing on a serial line",
    )
    connect_pause: Seconds = Field(
        default=0.0, ge=0, le=60, description="between connecting and the first request"
    )
    standby: str = Field(
        default="",
        description='endpoint of another way to the device, or of its twin; "" = none',
        examples=["tcp://192.168.1.11:502"],
    )
    standby_failures: int = Field(
        default=3, ge=1, le=100, description="attempts in a row that fail before it is taken"
    )
    standby_silence: Seconds = Field(
        default=10.0, gt=0, description="it is taken also when nothing was answered for so long"
    )
    take_back: Seconds = Field(
        default=60.0,
        ge=0,
        le=3600,
        description="how long the first address must be well before it is used again;"
        ' "0s" = not before the standby fails',
    )

    @property
    def gap_known(self) -> int:
        """The largest gap to read over before anything was measured."""
        return GAP_MAX if self.gap_max is None else self.gap_max

    @property
    def learns_gaps(self) -> bool:
        """Whether it may be found out which larger ones are worth it."""
        return self.gap_max is None and not self.one_request_a_tag

    @property
    def periods(self) -> dict[str, float]:
        """Seconds between the scans of each class; a profile has a slow one of its own."""
        own = {"default": 1.0, "slow": SLOW_PERIOD_S} if self.profile else {}
        return own | self.scan_classes

    @property
    def units(self) -> dict[int, str]:
        """With a profile: the asset of each unit id."""
        named = self.sunspec.units or {"1": self.name}
        return {int(unit_id): asset for unit_id, asset in named.items()}

    @property
    @abstractmethod
    def address(self) -> str:
        """Where the device is, in words for a person."""


class ModbusTcpSettings(ModbusSettings):
    """One connection to a Modbus TCP device, or to a gateway with several unit ids behind it."""

    type: Literal["modbus-tcp"]
    host: str = Field(
        min_length=1, description="IP address or host name", examples=["192.168.1.10"]
    )
    port: int = Field(default=502, ge=1, le=65535, description="TCP port")
    transport: Literal["tcp", "udp"] = Field(
        default="tcp", description='"udp" for the few devices that answer datagrams'
    )
    framing: Literal["mbap", "rtu", "ascii"] = Field(
        default="mbap",
        description='"rtu" or "ascii" for serial servers that pass the bytes of the line on',
    )
    in_flight: int = Field(
        default=1,
        ge=1,
        le=16,
        description="requests on the connection at once, for devices that allow more than one",
    )
    transaction_id_zero: bool = Field(
        default=False,
        description="take answers whose transaction id is 0 from a device that has no other",
    )
    connect_timeout: Seconds = Field(default=3.0, gt=0, description="for one attempt to connect")
    tls: bool = Field(default=False, description="Modbus/TCP Security; its port is 802")
    tls_ca: str = Field(default="", description="file of the CA to trust; empty = the system's")
    tls_certificate: str = Field(
        default="", description="file of our certificate and key, for devices that ask for one"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.in_flight > 1 and (self.framing != "mbap" or self.transaction_id_zero):
            raise ValueError(
                "in_flight above 1 needs answers with transaction ids: framing mbap,"
                " transaction_id_zero off"
            )
        if self.transaction_id_zero and self.framing != "mbap":
            raise ValueError(f"transaction_id_zero: framing {self.framing} has no transaction id")
        if self.tls and self.transport == "udp":
            raise ValueError("tls needs transport tcp")
        return self

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


class ModbusRtuSettings(ModbusSettings):
    """A serial line (RS-485, RS-232) with one or more devices on it."""

    type: Literal["modbus-rtu"]
    device: str = Field(
        min_length=1,
        description="the port; a name below /dev/serial/by-id stays the same",
        examples=["/dev/ttyUSB0"],
    )
    baud_rate: Literal[1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200] = Field(
        default=9600, description="as the devices have it"
    )
    parity: Literal["none", "even", "odd"] = Field(
        default="even", description="as the devices have it; the standard's default is even"
    )
    stop_bits: Literal[1, 2] = Field(default=1, description="as the devices have it")
    framing: Literal["rtu", "ascii"] = Field(default="rtu", description="as the devices have it")
    data_bits: Literal[7, 8] = Field(
        default=8, description="as the devices have it; 7 for most that speak ASCII"
    )
    echo: bool = Field(default=False, description="the adapter hears what it sends")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.framing == "rtu" and self.data_bits != 8:
            raise ValueError("data_bits 7 needs framing ascii: RTU frames are of eight bits")
        return self

    @property
    def address(self) -> str:
        return self.device


class RegisterRow(Settings):
    """One row of a register map: one tag."""

    asset: str = Field(min_length=1, description="the machine; some [[asset]] must cover it")
    tag: str = Field(min_length=1, description='what is measured; the tag is "<asset>.<tag>"')
    unit_id: int = Field(default=1, ge=0, le=255, description="Modbus unit identifier")
    table: Table = Field(default=Table.HOLDING_REGISTER, description="which of the four tables")
    address: int = Field(
        ge=0,
        le=65535,
        description="zero-based protocol address; or, instead of table and address, the column"
        " reference, such as 40001",
    )
    data_type: RegisterType = Field(
        default=RegisterType.UINT16, description="what the device stores"
    )
    length: int = Field(default=0, ge=0, le=125, description="registers of a string")
    byte_order: ByteOrder = Field(
        default=ByteOrder.ABCD, description="A is the most significant byte; CDAB swaps words"
    )
    bits: str = Field(
        default="",
        description='of an unsigned register, such as "3" or "4-7"; 0 is the lowest',
    )
    names: str = Field(
        default="", description='what numbers or flags mean, such as "0=off;1=on"; gives a text'
    )
    missing: str = Field(
        default="",
        description='stored numbers that mean "not there", such as "0x8000"; of a string "0", that'
        " an empty one does; bad quality",
    )
    expect: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="the number that must be stored there; else the device is another one, and no"
        " tag of its request is believed",
    )
    scale_from: str = Field(
        default="", description="tag of the same asset that holds the power of ten (SunSpec sf)"
    )
    scale: float = Field(default=1.0, description="value = stored number x scale + offset")
    offset: float = 0.0
    eng_unit: str = Field(default="", description="engineering unit, such as bar")
    scan_class: str = Field(default="default", description="one of the source's scan_classes")
    deadband: float = Field(
        default=0.0, ge=0.0, description="smaller changes are not reported; engineering units"
    )
    low: float | None = Field(default=None, description="lowest plausible value")
    high: float | None = Field(default=None, description="highest plausible value")
    rate_max: float | None = Field(
        default=None, gt=0, description="fastest plausible change a second; engineering units"
    )
    writable: bool = Field(
        default=False, description="may be set, from low to high, where the source has `writes`"
    )

    @property
    def is_whole_register(self) -> bool:
        """Whether its value is all there is in its registers, as numbers or text."""
        kind = self.data_type
        return not (kind.is_flags or kind.is_bcd or kind.value.endswith(("_high", "_low")))

    @property
    def tag_type(self) -> DataType:
        """What its values are as a tag's, before `scale` and `offset`."""
        if self.names or self.data_type is RegisterType.STRING:
            return DataType.STRING
        if self.scale_from:
            return DataType.FLOAT64
        is_bit = self.data_type is RegisterType.BOOL or (self.bits and "-" not in self.bits)
        return DataType.BOOL if is_bit else self.data_type.tag_type
