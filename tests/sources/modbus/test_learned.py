"""What a device taught one process, the next one knows; what the settings forbid is never read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.cli.main import main
from gateway.sources.modbus.config import ModbusTcpSettings, RegisterRow
from gateway.sources.modbus.learned import load_learned, save_learned
from gateway.sources.modbus.plan import Learned, plan


def row(address: int) -> RegisterRow:
    return RegisterRow(asset="a", tag=f"t{address}", address=address)


def settings(**facts: object) -> ModbusTcpSettings:
    base = {"type": "modbus-tcp", "name": "plc", "host": "h", "map": "m.csv"}
    return ModbusTcpSettings.model_validate(base | facts)


def requests(rows: list[RegisterRow], **facts: object) -> list[tuple[int, int]]:
    (scan,) = plan(rows, settings(**facts))
    return [(block.request.address, block.request.quantity) for block in scan.blocks]


def test_what_was_learned_is_known_after_a_restart(tmp_path: Path) -> None:
    rows = [row(address) for address in range(10)]
    learned = Learned()
    learned.cuts[1, 3] |= {4}
    learned.alone.add(7)
    save_learned(tmp_path / "sources" / "plc.json", learned, rows)
    # The map has another order now, and one row less.
    again = load_learned(tmp_path / "sources" / "plc.json", rows[:0:-1])
    assert again.cuts == {(1, 3): {4}}
    assert again.alone == {rows[:0:-1].index(rows[7])}


@pytest.mark.parametrize("content", ["", "{}", '{"cuts": 3, "refused": []}', "[" * 100_000])
def test_a_damaged_file_is_said_and_forgotten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (tmp_path / "plc.json").write_text(content)
    learned = load_learned(tmp_path / "plc.json", [row(0)])
    assert not learned.cuts
    assert not learned.alone
    assert "modbus.learned_unusable" in caplog.text


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    assert not load_learned(tmp_path / "plc.json", [row(0)]).alone


addresses = st.sets(st.integers(0, 60), min_size=1, max_size=20)


@given(addresses, st.integers(0, 60), st.integers(0, 9))
def test_no_request_touches_what_must_never_be_read(used: set[int], first: int, more: int) -> None:
    last = first + more
    rows = [row(address) for address in used if not first <= address <= last]
    if not rows:
        return
    for address, quantity in requests(rows, never_read=[f"holding_register {first}-{last}"]):
        assert address + quantity <= first or address > last


@given(addresses)
def test_each_tag_has_a_request_of_its_own_where_the_device_wants_it(used: set[int]) -> None:
    rows = [row(address) for address in used]
    assert sorted(requests(rows, one_request_a_tag=True)) == [(a, 1) for a in sorted(used)]


@pytest.mark.parametrize("text", ["", "holding_register", "x 1-2", "coil 5-4", "coil 1-70000"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="write a table and addresses"):
        settings(never_read=[text])


def test_check_says_what_was_learned_and_plans_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"pump-1,t{address},1,{address}\n" for address in range(10))
    (tmp_path / "map.csv").write_text("asset,tag,unit_id,address\n" + rows)
    config = tmp_path / "s.toml"
    config.write_text(
        f'[gateway]\nname = "g"\ndata_dir = "{tmp_path}/data"\n'
        '[[source]]\ntype = "modbus-tcp"\nname = "plc"\nhost = "10.1.2.3"\nmap = "map.csv"\n'
        '[[asset]]\nname = "*"\nclass = "pump"\n'
    )
    assert main(["check", str(config)]) == 0
    assert "1 request " in capsys.readouterr().out
    learned = Learned()
    learned.cuts[1, 3] |= {4}
    learned.alone.add(7)
    save_learned(tmp_path / "data/sources/plc.json", learned, [row(a) for a in range(10)])
    assert main(["check", str(config)]) == 0
    said = capsys.readouterr().out
    assert "pump-1.t7 was refused: correct its address, or remove its row" in said
    assert "unit 1, function 3: no request reads across 4" in said
    assert "4 requests" in said
