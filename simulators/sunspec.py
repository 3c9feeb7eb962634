"""A roof on the wire: a SunSpec inverter and a grid meter behind one Modbus TCP server.

Unit 1 is a three-phase inverter of 10 kW with two strings of modules (models 1, 103, 120, 160 and
701), unit 2 the meter at the grid (1, 203). Sun, clouds and the load of the house move them. The
registers are laid out from the Alliance's definitions, and words made by no code of the gateway;
pymodbus speaks the protocol. As on real inverters the scale factor of the power changes with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from pymodbus.constants import ExcCodes
from pymodbus.exceptions import NoSuchIdException
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from simulators.faults import FaultBoard
from simulators.noise import RandomRows, decay, wander
from simulators.pace import Pace, beside

__all__ = ["INVERTER", "METER", "UNITS", "Roof", "RoofSettings", "run_roof"]

INVERTER, METER = "inverter-1", "meter-1"
UNITS = {1: INVERTER, 2: METER}
RATED_W = 10_000.0
STRINGS = (0.6, 0.4)  # share of the modules
EFFICIENCY = 0.97
DAY_S = 86_400.0
_START_S = 10 * 3600.0  # the plant's clock begins at ten in the morning
_OFF_W = 20.0  # less is night

_NOT_A_NUMBER = {
    "int16": 0x8000, "sunssf": 0x8000, "pad": 0x8000, "uint16": 0xFFFF, "count": 0xFFFF,
    "enum16": 0xFFFF, "bitfield16": 0xFFFF, "acc16": 0, "int32": 1 << 31, "uint32": 2**32 - 1,
    "enum32": 2**32 - 1, "bitfield32": 2**32 - 1, "acc32": 0, "int64": 1 << 63,
    "uint64": 2**64 - 1, "acc64": 0, "float32": 0x7FC00000, "string": 0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RoofSettings:
    """A roof."""

    seed: int = 1
    host: str = "127.0.0.1"
    port: int = 0  # 0 = a free one
    base: int = 40000  # of the marker
    speed: float = 1.0  # plant seconds a second; 0 stands still
    step_s: float = 1.0  # plant time


class _Model:
    """A model's registers; a point that was never written says that it is not implemented."""

    def __init__(self, model_id: int, groups: Mapping[str, int] | None = None) -> None:
        """`groups`: how often each repeating one is there."""
        self._places: dict[str, tuple[int, str, int, str]] = {}  # name: offset, type, size, sf
        self._scales: dict[str, int] = {}
        table = json.loads(
            files("gateway.sources.modbus.sunspec").joinpath("models.json").read_text("utf-8")
        )
        _, _, points, repeated = table[str(model_id)]
        self._size = 2
        self._lay(points, "")
        for name, _, inner, _ in repeated:
            for number in range(1, (groups or {}).get(name, 0) + 1):
                self._lay(inner, f"{name}_{number}.")
        self.words = [model_id, self._size - 2, *[0] * (self._size - 2)]
        for at, kind, size, _ in self._places.values():
            self._put(at, size, _NOT_A_NUMBER.get(kind, 0))

    def _lay(self, points: list[list[Any]], prefix: str) -> None:
        for name, kind, size, *rest in points:
            scale = rest[0] if rest and isinstance(rest[0], str) else ""
            self._places[prefix + name] = (self._size, kind, size, scale)
            self._size += size

    def _put(self, at: int, size: int, number: int) -> None:
        for i in range(size):
            self.words[at + i] = number >> 16 * (size - 1 - i) & 0xFFFF

    def write(self, **values: float | str) -> dict[str, float | str]:
        """Set points, scale factors before those that they scale; what they then really say."""
        return self.write_all(values)

    def write_all(self, values: Mapping[str, float | str]) -> dict[str, float | str]:
        """Set points, by names with dots."""
        said: dict[str, float | str] = {}
        for name, value in values.items():
            at, kind, size, scale = self._places[name]
            if isinstance(value, str):
                data = value.encode("ascii").ljust(2 * size, b"\0")
                self._put(at, size, int.from_bytes(data[: 2 * size], "big"))
                said[name] = value
                continue
            if kind == "sunssf":
                self._scales[name] = int(value)
            exponent = self._scales.get(scale, 0)
            number = round(value / 10**exponent)
            self._put(at, size, number % (1 << 16 * size))
            said[name] = number * 10**exponent if exponent >= 0 else number / 10**-exponent
        return said


def _common(model: str, serial: str) -> _Model:
    common = _Model(1)
    common.write(Mn="Sluicegate", Md=model, Vr="1.0", SN=serial, DA=1)
    return common


class Roof:
    """Sun, house and what the two devices say of them."""

    def __init__(self, settings: RoofSettings) -> None:
        self.settings = settings
        self.board = FaultBoard(
            assets=(INVERTER, METER),
            tags=(),
            spans=np.zeros(0),
            kinds=("device_offline",),
            default_tags={},
        )
        self.now_s = 0.0
        self.steps = 0
        self.port = 0
        self.requests_answered = 0
        self._random = RandomRows(settings.seed, 1, 3)
        self._cloud, self._load, self._grid = (np.zeros(1) for _ in range(3))
        self._energy_wh = {"made": 12_345_678.0, "exported": 4_000_000.0, "imported": 9_000_000.0}
        self._strings_wh = [self._energy_wh["made"] * share for share in STRINGS]
        self._said: dict[str, float | str] = {}
        self._inverter = _Model(103)
        self._nameplate = _Model(120)
        self._mppt = _Model(160, {"module": len(STRINGS)})
        self._measured = _Model(701)
        self._meter = _Model(203)
        self._chains = {
            1: [_common("roof-10k", "INV-0001"), self._inverter, self._nameplate, self._mppt,
                self._measured],
            2: [_common("grid-3p", "MTR-0001"), self._meter],
        }  # fmt: skip
        self._write_nameplates()
        self.step()

    def registers(self, unit_id: int) -> list[int]:
        """What a unit holds, from the marker to the end."""
        models = [word for model in self._chains[unit_id] for word in model.words]
        return [0x5375, 0x6E53, *models, 0xFFFF, 0]

    def values(self) -> dict[str, float | str]:
        """`asset.tag` -> what the registers say now, of what moves."""
        return dict(self._said)

    def step(self) -> None:
        """One step of plant time."""
        self.steps += 1
        self.now_s += self.settings.step_s
        self.board.advance(self.now_s)
        step_s = self.settings.step_s
        for state, random, tau_s in zip(
            (self._cloud, self._load, self._grid), self._random.take(), (120, 300, 30), strict=True
        ):
            wander(state, random, decay(step_s, tau_s))
        self._work(step_s / 3600)

    def truth(self) -> dict[str, Any]:
        """What was served; JSON."""
        return {
            "plant": "sunspec",
            "seed": self.settings.seed,
            "steps": self.steps,
            "plant_s": round(self.now_s, 3),
            "requests_answered": self.requests_answered,
            "faults": self.board.active(),
            "values": self.values(),
        }

    async def tick(self) -> None:
        """Let the sun move for ever, at its speed."""
        async for steps in Pace(self.settings.step_s, self.settings.speed):
            for _ in range(steps):
                self.step()

    def _work(self, hours: float) -> None:
        day = (_START_S + self.now_s) % DAY_S / DAY_S
        sun = max(0.0, math.sin(math.pi * (day - 0.25) / 0.5)) if 0.25 < day < 0.75 else 0.0
        clear = 1 / (1 + math.exp(-1.5 * (float(self._cloud[0]) + 0.8)))
        dc_w = RATED_W / EFFICIENCY * sun * clear
        ac_w = dc_w * EFFICIENCY if dc_w > _OFF_W else 0.0
        evening = math.exp(-(((day - 0.8) / 0.08) ** 2))
        load_w = 400 + 2500 * evening + 1200 / (1 + math.exp(-3 * (float(self._load[0]) - 1)))
        grid_w = load_w - ac_w  # bought, or sold where it is negative
        self._energy_wh["made"] += ac_w * hours
        self._energy_wh["imported" if grid_w > 0 else "exported"] += abs(grid_w) * hours
        volts, hertz = 230 + 1.5 * float(self._grid[0]), 50 + 0.02 * float(self._grid[0])
        self._write_inverter(ac_w, dc_w, volts, hertz)
        self._write_strings(dc_w, hours, sun)
        self._write_meter(grid_w, volts, hertz)

    def _write_inverter(self, ac_w: float, dc_w: float, volts: float, hertz: float) -> None:
        on = ac_w > 0
        amps, celsius = ac_w / volts, 25 + 40 * ac_w / RATED_W
        tenths = ac_w < 1000  # as fine as 16 bits and the rated power allow
        said = self._inverter.write(
            A_SF=-2, V_SF=-1, W_SF=-1 if tenths else 0, Hz_SF=-2, VA_SF=0, VAr_SF=0, PF_SF=-2,
            WH_SF=0, DCA_SF=-2, DCV_SF=-1, DCW_SF=0, Tmp_SF=-1,
            A=amps, AphA=amps / 3, AphB=amps / 3, AphC=amps / 3,
            PPVphAB=volts * 3**0.5, PPVphBC=volts * 3**0.5, PPVphCA=volts * 3**0.5,
            PhVphA=volts, PhVphB=volts, PhVphC=volts, W=ac_w, Hz=hertz, VA=ac_w, VAr=0.0,
            PF=100.0, WH=self._energy_wh["made"], DCW=dc_w, DCA=dc_w / 600, DCV=600.0,
            TmpCab=celsius, St=4 if on else 2, Evt1=0,
        )  # fmt: skip
        self._tell(INVERTER, "inverter", said)
        said = self._measured.write(
            A_SF=-1, V_SF=-1, Hz_SF=-3, W_SF=0, PF_SF=-3, VA_SF=0, Var_SF=0, TotWh_SF=0,
            TotVarh_SF=0, Tmp_SF=-1,
            ACType=3, St=1 if on else 0, InvSt=3 if on else 1, ConnSt=1, Alrm=0,
            W=ac_w, VA=ac_w, Var=0.0, PF=1.0, A=amps, LLV=volts * 3**0.5, LNV=volts, Hz=hertz,
            TotWhInj=self._energy_wh["made"], TmpCab=celsius,
        )  # fmt: skip
        self._tell(INVERTER, "DERMeasureAC", said)

    def _write_strings(self, dc_w: float, hours: float, sun: float) -> None:
        values: dict[str, float | str] = {
            "DCA_SF": -2, "DCV_SF": -1, "DCW_SF": 0, "DCWH_SF": 0,
            "Evt": 0, "N": len(STRINGS), "TmsPer": 0,
        }  # fmt: skip
        for number, share in enumerate(STRINGS, 1):
            self._strings_wh[number - 1] += dc_w * share * hours
            volts, module = 560.0 + 60 * sun, f"module_{number}."
            values |= {
                module + "ID": number,
                module + "IDStr": f"String {number}",
                module + "DCA": dc_w * share / volts,
                module + "DCV": volts,
                module + "DCW": dc_w * share,
                module + "DCWH": self._strings_wh[number - 1],
                module + "DCSt": 4 if dc_w > _OFF_W else 2,
            }
        self._tell(INVERTER, "mppt", self._mppt.write_all(values))

    def _write_meter(self, grid_w: float, volts: float, hertz: float) -> None:
        amps = grid_w / volts
        said = self._meter.write(
            A_SF=-2, V_SF=-1, Hz_SF=-2, W_SF=0, VA_SF=0, VAR_SF=0, PF_SF=-2, TotWh_SF=1,
            TotVAh_SF=0, TotVArh_SF=0,
            A=amps, AphA=amps / 3, AphB=amps / 3, AphC=amps / 3,
            PhV=volts, PhVphA=volts, PhVphB=volts, PhVphC=volts, PPV=volts * 3**0.5,
            Hz=hertz, W=grid_w, WphA=grid_w / 3, WphB=grid_w / 3, WphC=grid_w / 3,
            VA=abs(grid_w), VAR=0.0, PF=100.0 if grid_w >= 0 else -100.0,
            TotWhExp=self._energy_wh["exported"], TotWhImp=self._energy_wh["imported"], Evt=0,
        )  # fmt: skip
        self._tell(METER, "meter", said)

    def _write_nameplates(self) -> None:
        self._nameplate.write(
            WRtg_SF=1, VARtg_SF=1, VArRtg_SF=1, ARtg_SF=-1, PFRtg_SF=-2,
            DERTyp=4, WRtg=RATED_W, VARtg=RATED_W, ARtg=15.0, PFRtgQ1=0.8,
        )  # fmt: skip

    def _tell(self, asset: str, model: str, said: Mapping[str, float | str]) -> None:
        self._said |= {f"{asset}.{model}.{name}": value for name, value in said.items()}


@asynccontextmanager
async def run_roof(settings: RoofSettings) -> AsyncIterator[Roof]:
    """A roof that runs and answers until the block is left; raises OSError for a port taken."""
    roof = Roof(settings)
    server = ModbusTcpServer(
        [_device(roof, unit_id) for unit_id in UNITS],
        address=(settings.host, settings.port),
        ignore_missing_devices=True,
    )
    async with beside(roof.tick(), "roof:tick"):
        try:
            await server.serve_forever(background=True)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {settings.host}:{settings.port}") from error
        try:
            sockets = server.transport.sockets  # type: ignore[attr-defined]  # asyncio's Server
            roof.port = sockets[0].getsockname()[1]
            yield roof
        finally:
            await server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus is half typed


def _device(roof: Roof, unit_id: int) -> SimDevice:
    """A unit as pymodbus knows it, which asks us before each answer."""
    base, size = roof.settings.base, len(roof.registers(unit_id))
    words = [SimData(base, count=size, datatype=DataType.REGISTERS)]
    return SimDevice(id=unit_id, simdata=words, action=_reader(roof, unit_id))


def _reader(roof: Roof, unit_id: int) -> Callable[..., Coroutine[None, None, ExcCodes | None]]:
    async def read(
        function: int,
        start: int,
        address: int,
        count: int,
        registers: list[int],
        written: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        if roof.board.is_offline(UNITS[unit_id]):
            # With ignore_missing_devices no answer is sent: the client waits in vain.
            raise NoSuchIdException(f"unit {unit_id} is offline")
        if written is not None or function not in (3, 4):
            return ExcCodes.ILLEGAL_FUNCTION
        first = address - start
        now = roof.registers(unit_id)
        registers[first : first + count] = now[first : first + count]
        roof.requests_answered += 1
        return None

    return read
