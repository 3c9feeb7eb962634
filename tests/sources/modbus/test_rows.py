from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sources.modbus import rows as rows_module
from gateway.sources.modbus.config import RegisterRow, Table
from gateway.sources.modbus.rows import RegisterMap, load_register_map

CLASSES = {"default": 1.0, "fast": 0.2}
HEADER = "asset,tag,unit_id,table,address,data_type,byte_order,length,scale,scan_class,deadband"
HEADER += ",low,high"


def loaded(tmp_path: Path, content: str | bytes) -> RegisterMap:
    path = tmp_path / "plc.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_register_map(path, CLASSES)


def cells(**facts: str) -> str:
    """One row below HEADER; what is not named is right."""
    right = {"asset": "pump-1", "tag": "flow", "address": "7", "data_type": "float32"}
    found = right | facts
    return ",".join(found.get(name, "") for name in HEADER.split(","))


def test_a_row_says_all_there_is_to_say(tmp_path: Path) -> None:
    text = f"{HEADER}\npump-1,flow,3,input_register,7,float32,CDAB,,0.1,fast,0.5,-1,90.5\n"
    register_map = loaded(tmp_path, text)
    assert register_map.problems == ()
    assert register_map.numbers == (2,)
    assert register_map.rows == (
        RegisterRow.model_validate(
            {"asset": "pump-1", "tag": "flow", "unit_id": 3, "table": "input_register"}
            | {"address": 7, "data_type": "float32", "byte_order": "CDAB", "scale": 0.1}
            | {"scan_class": "fast", "deadband": 0.5, "low": -1.0, "high": 90.5}
        ),
    )


@pytest.mark.parametrize(
    "content",
    [
        b"asset,tag,address\npump-1,flow,7\n",
        b"\xef\xbb\xbfasset,tag,address\r\npump-1,flow,7\r\n",
        b"asset;tag;address\npump-1;flow;7\n",
        b"tag , address , asset\n flow , 7 , pump-1 \n",
        b"# the line's pumps\n\nasset,tag,address\n# pump-1,old,1\n,,\n\npump-1,flow,7\n",
        b'asset,tag,address\n"pump-1","flow","7"',
        b"asset,tag,address,\npump-1,flow,7,,,\n",
    ],
    ids=["plain", "bom", "semicolons", "order", "comments", "quotes", "cells-left-over"],
)
def test_a_map_is_read_as_spreadsheet_programs_save_it(tmp_path: Path, content: bytes) -> None:
    register_map = loaded(tmp_path, content)
    assert register_map.problems == ()
    [row] = register_map.rows
    assert (row.asset, row.tag, row.address) == ("pump-1", "flow", 7)


def test_row_numbers_are_those_of_an_editor(tmp_path: Path) -> None:
    text = "# pumps\n\nasset,tag,address\npump-1,a,1\n\n# b is gone\npump-1,c,3\n"
    assert loaded(tmp_path, text).numbers == (4, 7)


@pytest.mark.parametrize(
    ("reference", "table", "address"),
    [
        ("40001", Table.HOLDING_REGISTER, 0),
        ("400001", Table.HOLDING_REGISTER, 0),
        ("465536", Table.HOLDING_REGISTER, 65535),
        ("30012", Table.INPUT_REGISTER, 11),
        ("10001", Table.DISCRETE_INPUT, 0),
        ("00017", Table.COIL, 16),
    ],
)
def test_a_reference_stands_for_table_and_address(
    tmp_path: Path, reference: str, table: Table, address: int
) -> None:
    text = f"asset,tag,reference,data_type\npump-1,flow,{reference},bool\n"
    register_map = loaded(tmp_path, text)
    assert register_map.problems == ()
    assert (register_map.rows[0].table, register_map.rows[0].address) == (table, address)


WRONG_CELLS = {
    "no asset": ({"asset": ""}, "asset", "Give the asset a name"),
    "no tag": ({"tag": ""}, "tag", "Give the tag a name"),
    "no address": ({"address": ""}, "address", "zero-based"),
    "address no number": ({"address": "4x"}, "address", "from 0 to 65535"),
    "address a fraction": ({"address": "4.0"}, "address", "from 0 to 65535"),
    "address below 0": ({"address": "-1"}, "address", "from 0 to 65535"),
    "address a reference": ({"address": "400001"}, "address", 'the column "reference"'),
    "address of other digits": ({"address": "\u0664"}, "address", "from 0 to 65535"),
    "value beyond the end": ({"address": "65535"}, "address", "Correct the address"),
    "unit id": ({"unit_id": "256"}, "unit_id", "from 0 to 255"),
    "length": ({"length": "126"}, "length", "from 0 to 125"),
    "table, nearly": ({"table": "holding"}, "table", '"holding_register"'),
    "table, not at all": ({"table": "xyz"}, "table", "Choose one of"),
    "type in capitals": ({"data_type": "FLOAT32"}, "data_type", '"float32"'),
    "type, not at all": ({"data_type": "xyz"}, "data_type", "Choose one of"),
    "byte order in small": ({"byte_order": "cdab"}, "byte_order", '"CDAB"'),
    "number with a comma": ({"scale": '"0,1"'}, "scale", "as a point: 0.1"),
    "number no number": ({"scale": "ten"}, "scale", "such as 0.1"),
    "number not finite": ({"low": "inf"}, "low", "such as 0.1"),
    "number nan": ({"high": "nan"}, "high", "such as 0.1"),
    "scale 0": ({"scale": "0"}, "scale", "Leave it empty for 1"),
    "deadband below 0": ({"deadband": "-1"}, "deadband", "Write 0 or more"),
    "low above high": ({"low": "5", "high": "4"}, "low", "Exchange them"),
    "scan class": ({"scan_class": "quick"}, "scan_class", "default, fast"),
    "string of no length": ({"data_type": "string"}, "length", "such as 8"),
    "number in a coil": ({"table": "coil"}, "data_type", '"bool"'),
}


@pytest.mark.parametrize("name", WRONG_CELLS)
def test_a_wrong_cell_is_told_with_its_row_its_column_and_what_to_do(
    tmp_path: Path, name: str
) -> None:
    facts, column, mend = WRONG_CELLS[name]
    register_map = loaded(tmp_path, f"{HEADER}\n{cells(tag='good')}\n{cells(**facts)}\n")
    [problem] = register_map.problems
    assert problem.file == str(tmp_path / "plc.csv")
    assert problem.place == f"row 3, column {column}"
    assert mend in problem.mend
    assert register_map.numbers == (2,)  # the row that is right is there all the same


@pytest.mark.parametrize("reference", ["4001", "50001", "4x001", "40000", "465537", "4"])
def test_a_reference_that_is_none_is_one_problem(tmp_path: Path, reference: str) -> None:
    register_map = loaded(tmp_path, f"asset,tag,reference\npump-1,flow,{reference}\n")
    [problem] = register_map.problems
    assert problem.place == "row 2, column reference"
    assert "40001" in problem.mend


def test_a_reference_beside_an_address_is_refused(tmp_path: Path) -> None:
    [problem] = loaded(tmp_path, "asset,tag,reference,address\np,f,40001,0\n").problems
    assert problem.place == "row 2, column reference"
    assert "one of the two" in problem.mend


def test_a_tag_given_twice_names_both_rows(tmp_path: Path) -> None:
    [problem] = loaded(tmp_path, f"{HEADER}\n{cells()}\n{cells(address='9')}\n").problems
    assert problem.place == "row 3, column tag"
    assert "row 2" in problem.found


def test_a_row_with_a_comma_too_many_is_refused_whole(tmp_path: Path) -> None:
    [problem] = loaded(tmp_path, "asset,tag,address,scale\npump-1,flow,7,0,1\n").problems
    assert problem.place == "row 2"
    assert "5 cells, the header 4" in problem.found
    assert "point" in problem.mend


WRONG_FILES = {
    "empty": (b"", "the file", "empty", "asset,tag"),
    "comments alone": (b"# nothing\n\n", "the file", "empty", "asset,tag"),
    "header alone": (b"asset,tag,address\n", "the file", "no row", "Add a row"),
    "not utf-8": (b"asset,tag,address\np,K\xfchler,1\n", "the file", "byte 21", "CSV UTF-8"),
    "unknown column": (b"asset,tag,address,skale\np,f,1,\n", "row 1", '"skale"', '"scale"'),
    "strange column": (b"asset,tag,address,zzz\np,f,1,\n", "row 1", '"zzz"', "There are"),
    "column twice": (b"asset,tag,address,tag\np,f,1,\n", "row 1, column tag", "twice", "Remove"),
    "no asset": (b"tag,address\nf,1\n", "row 1", '"asset" is missing', "Add it"),
    "no address": (b"asset,tag\np,f\n", "row 1", '"address" is missing', "Add it"),
    "endless cell": (b"asset,tag,address\np,f," + b"1" * 140_000, "row 2", "no CSV", "Mend"),
    "endless header": (b"asset,tag,address," + b"x" * 140_000, "row 1", "no CSV", "Mend"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_file_is_told_once_with_what_to_do(tmp_path: Path, name: str) -> None:
    content, place, found, mend = WRONG_FILES[name]
    register_map = loaded(tmp_path, content)
    [problem] = register_map.problems
    assert problem.place == place
    assert found in problem.found
    assert mend in problem.mend
    assert register_map.rows == ()


def test_a_file_that_is_not_there_or_is_a_folder_is_a_problem(tmp_path: Path) -> None:
    for path in (tmp_path / "no.csv", tmp_path):
        [problem] = load_register_map(path, CLASSES).problems
        assert "cannot be read" in problem.found
        assert "Check the path" in problem.mend


def test_a_file_that_is_no_map_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "BYTES_MAX", 100)
    [problem] = loaded(tmp_path, b"asset,tag,address\n" * 10).problems
    assert "larger" in problem.found


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    wrong = cells(address="x", scale="y", table="z")
    problems = loaded(tmp_path, f"{HEADER}\n{wrong}\n{cells(unit_id='999')}\n").problems
    places = {problem.place for problem in problems}
    assert places == {
        "row 2, column address",
        "row 2, column scale",
        "row 2, column table",
        "row 3, column unit_id",
    }


def test_a_long_cell_is_told_shortened(tmp_path: Path) -> None:
    [problem] = loaded(tmp_path, f"{HEADER}\n{cells(table='x' * 5000)}\n").problems
    assert len(str(problem)) < 500


fragments = st.sampled_from(
    [*HEADER.split(","), "reference", "p", "40001", "7", ",", ";", "\n", "\r", '"', "#", "é"]
)


@given(st.one_of(st.binary(max_size=200), st.lists(fragments, max_size=60).map("".join)))
def test_any_file_gives_rows_or_problems_and_never_raises(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    register_map = loaded(tmp_path_factory.getbasetemp(), content)
    assert register_map.rows or register_map.problems
    assert len(register_map.rows) == len(register_map.numbers)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ("int16,3,,,", "int16 has no single bits"),
        ("uint16,40,,,", "bits '40' is not valid"),
        ("uint16,,on,,", "names 'on' is not valid"),
        ("float32,,0=off,,", "float32 has no names"),
        ("uint16,,,x,", "missing 'x' is not valid"),
        ("uint16,,,,nobody", 'there is no tag "a.nobody"'),
        ("uint16,,,,other", '"other" cannot be its exponent'),
    ],
)
def test_what_a_number_means_is_checked(tmp_path: Path, cells: str, said: str) -> None:
    path = tmp_path / "map.csv"
    header = "asset,tag,address,data_type,bits,names,missing,scale_from"
    path.write_text(f"{header}\na,t,0,{cells}\na,other,9,uint16,,,,\n")
    (problem,) = load_register_map(path, {"default": 1.0}).problems
    assert said in str(problem)
    assert problem.place.startswith("row 2")


def test_a_map_may_say_what_numbers_mean(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text(
        "asset,tag,address,data_type,bits,names,missing,scale_from,rate_max\n"
        "a,power,0,int16,,,0x8000,power_sf,500\n"
        "a,power_sf,1,int16,,,0x8000,,\n"
        "a,mode,2,uint16,0-2,0=off;1=heat;2=cool,,,\n"
        "a,alarms,3,flags32,,0=door;5=flame,,,\n"
        "a,total,5,bcd32,,,,,\n"
        "a,half,7,float16,,,,,\n"
        "a,upper,8,int8_high,,,,,\n"
    )
    found = load_register_map(path, {"default": 1.0})
    assert not found.problems
    kinds = [row.tag_type.value for row in found.rows]
    assert kinds == ["float64", "int16", "string", "string", "uint32", "float32", "int16"]
    assert found.rows[0].rate_max == 500
