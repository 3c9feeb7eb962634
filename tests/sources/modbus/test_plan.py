from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sources.modbus.config import ModbusTcpSettings, RegisterRow, Table
from gateway.sources.modbus.plan import plan, width_of
from gateway.tag import DataType


def modbus(**more: object) -> ModbusTcpSettings:
    base = {"type": "modbus-tcp", "name": "plc", "host": "h", "map": "m.csv"}
    return ModbusTcpSettings.model_validate(base | more)


def row(address: int, data_type: str = "uint16", **more: object) -> RegisterRow:
    base = {"asset": "a", "tag": f"t{address}", "address": address, "data_type": data_type}
    return RegisterRow.model_validate(base | more)


def spans(rows: list[RegisterRow], settings_: ModbusTcpSettings) -> list[tuple[int, int]]:
    return [
        (block.request.address, block.request.quantity)
        for scan in plan(rows, settings_)
        for block in scan.blocks
    ]


def test_neighbours_are_read_together_over_small_gaps_only() -> None:
    rows = [row(0), row(1), row(4, "float32"), row(20)]
    assert spans(rows, modbus(gap_max=2)) == [(0, 6), (20, 1)]
    assert spans(rows, modbus(gap_max=1)) == [(0, 2), (4, 2), (20, 1)]


def test_unit_ids_tables_and_scan_classes_are_read_apart() -> None:
    rows = [
        row(0),
        row(1, unit_id=2),
        row(2, table=Table.INPUT_REGISTER),
        row(3, "bool", table=Table.COIL),
        row(4, scan_class="slow"),
    ]
    plans = plan(rows, modbus(scan_classes={"default": 1.0, "slow": 10.0}))
    assert [scan.scan_class for scan in plans] == ["default", "slow"]
    assert len(plans[0].blocks) == 4
    assert len(plans[1].blocks) == 1


def test_a_value_and_its_power_of_ten_are_of_one_answer_where_that_can_be() -> None:
    values = [row(address, scale_from="t64") for address in range(0, 64, 8)]
    rows = [*values, row(64, "int16"), *(row(a, scale_from="t64") for a in range(72, 200, 8))]
    made = [
        block for scan in plan(rows, modbus(registers_max=70, gap_max=8)) for block in scan.blocks
    ]
    for block in made:
        first, end = block.request.address, block.request.address + block.request.quantity
        for index in block.rows:
            if end - first <= 70 and abs(rows[index].address - 64) < 70:
                assert first <= 64 < end
    assert 8 in made[0].rows  # who needs it from elsewhere is read later


def test_a_power_of_ten_never_widens_a_request_over_what_it_must_not_read() -> None:
    rows = [row(0, scale_from="t20"), row(20, "int16")]
    assert spans(rows, modbus()) == [(20, 1), (0, 1)]
    assert spans(rows, modbus(gap_max=30)) == [(0, 21)]
    assert spans(rows, modbus(gap_max=30, registers_max=20)) == [(20, 1), (0, 1)]
    never = ["holding_register 10-11"]
    assert spans(rows, modbus(gap_max=30, never_read=never)) == [(20, 1), (0, 1)]


kinds = st.sampled_from([DataType.UINT16, DataType.FLOAT32, DataType.UINT64])
maps = st.lists(st.tuples(st.integers(0, 60), kinds), min_size=1, max_size=7)


@settings(max_examples=150)
@given(maps, st.integers(4, 20), st.integers(0, 10))
def test_every_tag_is_read_whole_within_the_limits_and_with_the_fewest_requests(
    content: list[tuple[int, DataType]], registers_max: int, gap_max: int
) -> None:
    rows = [row(address, kind) for address, kind in content]
    made = plan(rows, modbus(registers_max=registers_max, gap_max=gap_max))
    blocks = [block for scan in made for block in scan.blocks]
    assert sorted(i for block in blocks for i in block.rows) == list(range(len(rows)))
    for block in blocks:
        first, quantity = block.request.address, block.request.quantity
        assert quantity <= registers_max
        for i in block.rows:
            assert first <= rows[i].address
            assert rows[i].address + width_of(rows[i]) <= first + quantity
    assert len(blocks) == fewest(rows, registers_max, gap_max)


def fewest(rows: list[RegisterRow], registers_max: int, gap_max: int) -> int:
    """By trying every way to cut the sorted tags into runs."""
    ordered = sorted(rows, key=lambda r: (r.address, -width_of(r)))

    def allowed(run: list[RegisterRow]) -> bool:
        end = run[0].address
        for each in run:
            if each.address - end > gap_max and each is not run[0]:
                return False
            end = max(end, each.address + width_of(each))
        return end - run[0].address <= registers_max

    for cuts in range(len(ordered)):
        for places in combinations(range(1, len(ordered)), cuts):
            edges = [0, *places, len(ordered)]
            if all(allowed(ordered[a:b]) for a, b in pairwise(edges)):
                return cuts + 1
    raise AssertionError("a tag does not fit")
