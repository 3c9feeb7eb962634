"""Register maps: CSV files as plants keep them, a row a tag -> rows, or all that is wrong.

Comma or semicolon, with or without a byte order mark; blank rows and rows that begin with `#` are
passed over. Columns are those of `RegisterRow`, in any order, and `reference` may stand for table
and address: 40001-style numbers, as in the device's own documentation (30001 is input register 0,
400001 holding register 0).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from gateway.errors import Problem
from gateway.sources.modbus.config import RegisterRow, Table
from gateway.sources.modbus.plan import width_of
from gateway.sources.modbus.types import RegisterType, parse_bits, parse_names, parse_numbers
from gateway.tag import ByteOrder, DataType

__all__ = ["RegisterMap", "load_register_map"]

# A map of a whole plant has some ten thousand rows; beyond this it is not a register map.
BYTES_MAX = 32 * 2**20
_VALUE_CHARS_MAX = 60
_COLUMNS = tuple(RegisterRow.model_fields)
_REQUIRED = ("asset", "tag")
_TABLES = {
    "0": Table.COIL,
    "1": Table.DISCRETE_INPUT,
    "3": Table.INPUT_REGISTER,
    "4": Table.HOLDING_REGISTER,
}
_BIT_TABLES = (Table.COIL, Table.DISCRETE_INPUT)
_WRITABLE_TABLES = (Table.COIL, Table.HOLDING_REGISTER)
_CHOICES: dict[str, tuple[str, ...]] = {
    "table": tuple(Table),
    "data_type": tuple(RegisterType),
    "byte_order": tuple(ByteOrder),
}
_INTEGERS = {
    "unit_id": (0, 255),
    "address": (0, 65535),
    "length": (0, 125),
    "expect": (0, 65535),
}


@dataclass(frozen=True, slots=True)
class RegisterMap:
    """What a file holds: the rows that are right, their row numbers, and the problems."""

    rows: tuple[RegisterRow, ...]
    numbers: tuple[int, ...]  # of each row, counted from 1 with the header, as editors do
    problems: tuple[Problem, ...]


def load_register_map(path: Path, scan_classes: Mapping[str, float]) -> RegisterMap:
    """Read a map; nothing is raised, everything wrong is in `problems`."""
    reader = _Reader(path, scan_classes)
    text = reader.text()
    if text is not None:
        reader.read(text)
        reader.check_together()
    return RegisterMap(tuple(reader.rows), tuple(reader.numbers), tuple(reader.problems))


class _Reader:
    def __init__(self, path: Path, scan_classes: Mapping[str, float]) -> None:
        self._path = path
        self._shown = "".join(
            c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(path)
        )
        self._scan_classes = scan_classes
        self._homes: dict[str, int] = {}  # tag name -> row
        self.rows: list[RegisterRow] = []
        self.numbers: list[int] = []
        self.problems: list[Problem] = []

    def text(self) -> str | None:
        """The file's text; None when there is none to be had."""
        try:
            if self._path.stat().st_size > BYTES_MAX:
                self._file_problem("the file is larger than 32 MiB", "Name a register map.")
                return None
            return self._path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            where = f"byte {error.start} is not UTF-8"
            self._file_problem(where, 'Save it as "CSV UTF-8" in the spreadsheet program.')
        except OSError as error:
            mend = "Check the path: in a configuration it is relative to that file."
            self._file_problem(f"the file cannot be read: {error.strerror or error}", mend)
        return None

    def read(self, text: str) -> None:
        lines = text.splitlines()
        head = next((i for i, line in enumerate(lines) if _is_content(line)), None)
        if head is None:
            columns = "asset,tag,unit_id,table,address,data_type"
            self._file_problem("the file is empty", f"Its first row names the columns: {columns}")
            return
        delimiter = ";" if lines[head].count(";") > lines[head].count(",") else ","
        try:
            cells = next(csv.reader([lines[head]], delimiter=delimiter))
        except csv.Error as error:
            self._problem(head + 1, "", f"the header is no CSV: {error}", "Mend the first row.")
            return
        header = [name.strip() for name in cells]
        if not self._check_header(header, head + 1):
            return
        rows = csv.reader(lines[head + 1 :], delimiter=delimiter, strict=False)
        try:
            for cells in rows:
                number = head + 1 + rows.line_num
                if cells and any(cell.strip() for cell in cells) and not cells[0].startswith("#"):
                    self._row(number, header, cells)
        except csv.Error as error:
            self._problem(head + 1 + rows.line_num, "", f"the row is no CSV: {error}", "Mend it.")
        if not self.rows and not self.problems:
            self._file_problem("there is no row below the header", "Add a row a tag.")

    def _check_header(self, header: list[str], number: int) -> bool:
        known = (*_COLUMNS, "reference")
        before = len(self.problems)
        for name in header:
            if name and name not in known:
                close = get_close_matches(name, known, 1)
                mend = f'Did you mean "{close[0]}"?' if close else f"There are {', '.join(known)}."
                self._problem(number, "", f'the column "{_short(name)}" is unknown', mend)
        for name in sorted({name for name in header if name and header.count(name) > 1}):
            self._problem(
                number, name, f'the column "{_short(name)}" is there twice', "Remove one."
            )
        for name in _REQUIRED:
            if name not in header:
                self._problem(number, "", f'the column "{name}" is missing', "Add it.")
        if "address" not in header and "reference" not in header:
            self._problem(number, "", 'the column "address" is missing', "Add it.")
        return len(self.problems) == before

    def _row(self, number: int, header: list[str], cells: list[str]) -> None:
        if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
            found = f"the row has {len(cells)} cells, the header {len(header)}"
            self._problem(
                number, "", found, "Write decimals with a point, texts with a comma in quotes."
            )
            return
        given = {
            name: cell.strip()
            for name, cell in zip(header, cells, strict=False)
            if name and cell.strip()
        }
        before = len(self.problems)
        if not self._resolve_reference(number, given):
            return
        data = self._converted(number, given)
        if len(self.problems) > before:
            return
        try:
            row = RegisterRow.model_validate(data)
        except ValidationError as error:
            for invalid in error.errors(include_url=False):
                column = str(invalid["loc"][0]) if invalid["loc"] else ""
                self._problem(
                    number,
                    column,
                    f"{column} = {_short(given.get(column, ''))!r} is not valid",
                    "Correct it.",
                )
            return
        self._check(number, row)
        if len(self.problems) == before:
            self.rows.append(row)
            self.numbers.append(number)

    def _resolve_reference(self, number: int, given: dict[str, str]) -> bool:
        """A 40001-style reference instead of table and address (Application Protocol, 4.4).

        False where there is one that is wrong; that has been said.
        """
        reference = given.pop("reference", "")
        if not reference:
            return True
        if "address" in given or "table" in given:
            self._problem(
                number,
                "reference",
                f"reference {_short(reference)} stands beside address or table",
                "Keep one of the two.",
            )
            return False
        table = _TABLES.get(reference[0])
        offset = int(reference[1:]) - 1 if reference[1:].isdecimal() else -1
        if len(reference) not in (5, 6) or table is None or not 0 <= offset <= 65535:
            self._problem(
                number,
                "reference",
                f"reference {_short(reference)!r} is not one",
                "Write it as in the manual, such as 40001 or 400001.",
            )
            return False
        given["table"], given["address"] = table.value, str(offset)
        return True

    def _converted(self, number: int, given: Mapping[str, str]) -> dict[str, object]:
        data: dict[str, object] = dict(given)
        for name in _REQUIRED:
            if name not in given:
                self._problem(number, name, f"{name} is empty", f"Give the {name} a name.")
        if "address" not in given:
            self._problem(number, "address", "address is empty", "Write the zero-based address.")
        for name in _CHOICES.keys() & given.keys():
            self._choice(number, name, given[name])
        for name in _INTEGERS.keys() & given.keys():
            self._integer(number, name, given[name], data)
        for name in ("scale", "offset", "deadband", "low", "high", "rate_max"):
            if name in given:
                self._number(number, name, given[name], data)
        return data

    def _choice(self, number: int, name: str, value: str) -> None:
        choices = _CHOICES[name]
        if value in choices:
            return
        fitting = [choice for choice in choices if choice.lower() == value.lower()]
        close = fitting or get_close_matches(value.lower(), choices, 1)
        there = f"Choose one of {', '.join(choices)}."
        mend = f'Did you mean "{close[0]}"?' if close else there
        self._problem(number, name, f'{name} "{_short(value)}" is unknown', mend)

    def _integer(self, number: int, name: str, value: str, data: dict[str, object]) -> None:
        low, high = _INTEGERS[name]
        if value.isascii() and value.removeprefix("-").isdecimal() and len(value) <= 6:
            data[name] = int(value)
            if low <= int(value) <= high:
                return
        mend = f"Write a whole number from {low} to {high}."
        if name == "address" and value.isdecimal() and len(value) == 6:
            mend = f'For a number such as {value} use the column "reference".'
        self._problem(number, name, f"{name} {_short(value)!r} is not one", mend)

    def _number(self, number: int, name: str, value: str, data: dict[str, object]) -> None:
        try:
            data[name] = float(value)
        except ValueError:
            data[name] = float("nan")
        if name == "deadband" and float(str(data[name])) < 0:
            found = f"deadband {_short(value)} is negative"
            self._problem(number, name, found, "Write 0 or more; 0 reports every sample.")
        if name == "rate_max" and float(str(data[name])) <= 0:
            found = f"rate_max {_short(value)} is not above 0"
            self._problem(number, name, found, "Leave it empty where any change is plausible.")
        if not abs(float(str(data[name]))) < float("inf"):
            mend = "Write a number such as 0.1."
            if "," in value:
                mend = f"Write the decimal point as a point: {value.replace(',', '.')}"
            self._problem(number, name, f"{name} {_short(value)!r} is not a number", mend)

    def _check(self, number: int, row: RegisterRow) -> None:
        """What cells do to each other."""
        name = f"{row.asset}.{row.tag}"
        if name in self._homes:
            found = f'the tag "{_short(name)}" is also in row {self._homes[name]}'
            self._problem(number, "tag", found, "Give one of them another name.")
        self._homes.setdefault(name, number)
        if row.scan_class not in self._scan_classes:
            there = ", ".join(self._scan_classes)
            found = f'scan class "{_short(row.scan_class)}" is not in scan_classes'
            self._problem(number, "scan_class", found, f"There are: {there}.")
        is_text = row.data_type is RegisterType.STRING
        self._check_meaning(number, row)
        if is_text and row.length == 0:
            self._problem(
                number, "length", "a string has no length", "Write its registers, such as 8."
            )
        if row.table in _BIT_TABLES and row.data_type is not RegisterType.BOOL:
            found = f"a {row.table} holds one bit, not {row.data_type}"
            self._problem(number, "data_type", found, 'Write "bool", or another table.')
        if row.address + width_of(row) > 65536:
            found = f"{row.data_type} at address {row.address} ends beyond 65535"
            self._problem(number, "address", found, "Correct the address.")
        if row.scale == 0:
            self._problem(number, "scale", "scale 0 makes every value 0", "Leave it empty for 1.")
        self._check_writable(number, row)
        if row.low is not None and row.high is not None and row.low > row.high:
            found = f"low {row.low:g} is above high {row.high:g}"
            self._problem(number, "low", found, "Exchange them.")

    def _check_writable(self, number: int, row: RegisterRow) -> None:
        """What only matters where a tag may be set."""
        if not row.writable:
            return
        if row.table not in _WRITABLE_TABLES:
            found = f"a {row.table} cannot be written"
            self._problem(number, "writable", found, "Leave it empty, or correct the table.")
        is_number = row.tag_type not in (DataType.BOOL, DataType.STRING)
        is_wide = bool(row.bits) and width_of(row) > 1
        if is_wide or row.names or row.scale_from or not (row.bits or row.is_whole_register):
            found = "bits of several registers, a byte, BCD, names or an exponent are not written"
            self._problem(number, "writable", found, "Leave it empty.")
        if is_number and (row.low is None or row.high is None):
            found = "the row is writable without low and high"
            self._problem(number, "writable", found, "Write the limits that hold for setting it.")

    def _check_meaning(self, number: int, row: RegisterRow) -> None:
        """Columns that say what the stored number means."""
        for column, parse in (
            ("bits", parse_bits),
            ("names", parse_names),
            ("missing", parse_numbers),
        ):
            text = getattr(row, column)
            try:
                if text:
                    parse(text)
            except ValueError as error:
                mend = str(error)[0].upper() + str(error)[1:] + "."
                self._problem(number, column, f"{column} {_short(text)!r} is not valid", mend)
                return
        is_whole = not (row.data_type.is_float or row.data_type is RegisterType.STRING)
        is_bit = row.table in _BIT_TABLES
        faults = (
            (
                bool(row.bits) and (is_bit or not (row.data_type.is_unsigned or _is_bool(row))),
                ("bits", f"{row.data_type} has no single bits", 'Write "uint16" or "uint32".'),
            ),
            (
                row.expect is not None
                and (is_bit or bool(row.bits) or row.data_type is not RegisterType.UINT16),
                ("expect", "only a whole uint16 is expected", "Give it a row of its own."),
            ),
            (
                bool(row.names) and (is_bit or not is_whole),
                ("names", f"{row.data_type} has no names", "Numbers of registers have."),
            ),
            (
                bool(row.missing) and is_bit,
                ("missing", f"{row.data_type} has no such numbers", "Leave it empty."),
            ),
            (
                row.data_type is RegisterType.STRING and row.missing not in {"", "0"},
                ("missing", "a string has no such numbers", "Write 0 where an empty one is none."),
            ),
            (
                bool(row.names) and (row.scale, row.offset, row.deadband) != (1.0, 0.0, 0.0),
                ("names", "a tag with names is a text", "Remove scale, offset and deadband."),
            ),
        )
        for is_so, (column, found, mend) in faults:
            if is_so:
                self._problem(number, column, found, mend)

    def check_together(self) -> None:
        """What rows say of other rows."""
        there = {(row.asset, row.tag): row for row in self.rows}
        for number, row in zip(self.numbers, self.rows, strict=True):
            if not row.scale_from:
                continue
            holder = there.get((row.asset, row.scale_from))
            if holder is None:
                found = f'there is no tag "{_short(row.asset)}.{_short(row.scale_from)}"'
                mend = "Name a row of the same asset that holds the exponent."
                self._problem(number, "scale_from", found, mend)
            elif holder.unit_id != row.unit_id or holder.tag_type is not DataType.INT16:
                found = f'"{_short(row.scale_from)}" cannot be its exponent'
                mend = "That must be an int16 of the same unit id, without names and bits."
                self._problem(number, "scale_from", found, mend)

    def _problem(self, number: int, column: str, found: str, mend: str) -> None:
        place = f"row {number}" + (f", column {column}" if column else "")
        self.problems.append(Problem(file=self._shown, place=place, found=found, mend=mend))

    def _file_problem(self, found: str, mend: str) -> None:
        problem = Problem(file=self._shown, place="the file", found=found, mend=mend)
        self.problems.append(problem)


def _is_bool(row: RegisterRow) -> bool:
    return row.data_type is RegisterType.BOOL


def _is_content(line: str) -> bool:
    return bool(line.strip(" ,;\t")) and not line.startswith("#")


def _short(value: str | Iterable[str]) -> str:
    text = value if isinstance(value, str) else " ".join(value)
    return text if len(text) <= _VALUE_CHARS_MAX else text[:_VALUE_CHARS_MAX] + "..."
