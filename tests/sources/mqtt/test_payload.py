from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from gateway.errors import WireError
from gateway.sources.mqtt.config import FieldSettings, TopicSettings
from gateway.sources.mqtt.payload import PayloadReader, Rows
from gateway.sources.mqtt.topics import TopicPattern
from gateway.tag import DataType, Quality

NOW = 1_767_225_600 * 10**9


class Tags:
    """Gives ids in order, and remembers what was introduced."""

    def __init__(self) -> None:
        self.names: list[tuple[str, DataType]] = []

    def introduce(self, field: str, _given: FieldSettings, data_type: DataType) -> int:
        self.names.append((field, data_type))
        return len(self.names) - 1


def take(payload: bytes | str, /, **topic: object) -> tuple[dict[str, object], Rows, PayloadReader]:
    """Field -> exact value, value, or the quality where that is not good."""
    tags = Tags()
    settings = TopicSettings.model_validate({"pattern": "p/{asset}"} | topic)
    reader = PayloadReader(settings, "", tags.introduce)
    rows = Rows()
    reader.take(payload.encode() if isinstance(payload, str) else payload, NOW, rows)
    found: dict[str, object] = {}
    for row, tag_id in enumerate(rows.ids):
        quality = rows.quality[row]
        good = rows.exact.get(row, rows.values[row])
        found[tags.names[tag_id][0]] = Quality(quality) if quality else good
    return found, rows, reader


def test_every_number_bool_and_text_of_an_object_is_a_tag() -> None:
    found, rows, _ = take('{"t": 21.5, "n": 3, "on": true, "mode": "auto", "x": null, "l": [1]}')
    assert found == {"t": 21.5, "n": 3.0, "on": 1.0, "mode": "auto"}
    assert rows.t_ns == [NOW] * 4


def test_declared_fields_are_found_by_their_path_and_the_rest_left_alone() -> None:
    fields = {"temp": {"path": "climate.t"}, "energy": {"data_type": "uint64"}}
    payload = '{"climate": {"t": 21.5}, "energy": 18446744073709551615, "other": 1}'
    assert take(payload, fields=fields)[0] == {"temp": 21.5, "energy": 2**64 - 1}


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("s", "1767225000.25"),
        ("ms", "1767225000250"),
        ("us", "1767225000250000"),
        ("ns", "1767225000250000000"),
        ("iso8601", '"2025-12-31T23:50:00.250Z"'),
    ],
)
def test_a_payload_may_have_a_time_of_its_own(unit: str, text: str) -> None:
    found, rows, _ = take(f'{{"ts": {text}, "v": 1}}', time="ts", time_unit=unit)
    assert found == {"v": 1.0}
    assert rows.t_ns == [1_767_225_000_250_000_000]


@pytest.mark.parametrize("text", ["0", "-5", "1e300", '"soon"', "null", "true", "4102444800"])
def test_a_time_that_cannot_be_is_the_arrival_and_uncertain(text: str) -> None:
    found, rows, reader = take(f'{{"ts": {text}, "v": 1}}', time="ts")
    assert found["v"] is Quality.UNCERTAIN_CLOCK
    assert set(rows.t_ns) == {NOW}
    assert reader.times_refused_total == 1


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[1]",
        b"1",
        b"null",
        b"\xef\xbb\xbf{}",
        b'{"a": NaN}',
        b'{"a": 1} x',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b'{"a": 1, "a": 2}',
        b'{"a" : 1, "a": 2}',
        b'{"o": {"a": 1, "a" :2}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 5000 + b".5e5000}",
    ],
)
def test_hostile_payloads_are_refused_or_bad_and_never_a_good_number(payload: bytes) -> None:
    try:
        found, _, _ = take(payload)
    except WireError:
        pass
    else:
        assert all(
            isinstance(v, Quality) or not math.isfinite(float(str(v))) for v in found.values()
        )


def test_a_value_of_another_type_is_one_bad_sample() -> None:
    fields = {"t": {}, "on": {"data_type": "bool"}, "mode": {"data_type": "string"}}
    found, _, reader = take('{"t": "hot", "on": 2, "mode": 5}', fields=fields)
    assert set(found.values()) == {Quality.BAD_DECODING}
    assert reader.conflicts_total == 3
    assert take('{"t": null}', fields=fields)[0] == {"t": Quality.BAD_SENSOR_FAILURE}


@pytest.mark.parametrize(
    ("payload", "value"), [(b"21.5", 21.5), (b"true", 1.0), (b"open", "open"), (b'"open"', "open")]
)
def test_a_bare_value_is_one_tag(payload: bytes, value: object) -> None:
    assert take(payload, payload="value", field="v")[0] == {"v": value}


@pytest.mark.parametrize("payload", [b"", b"[" * 5000, b'{"a":1,', b"\xef\xbb\xbf1", b"\xff"])
def test_a_bare_value_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        take(payload, payload="value", field="v")


@pytest.mark.parametrize(
    ("data_type", "value"),
    [("uint16", "70000"), ("int16", "1.5"), ("uint64", "18446744073709551616"), ("int32", "-1e12")],
)
def test_a_number_that_its_type_cannot_hold_is_bad(data_type: str, value: str) -> None:
    found, _, _ = take(f'{{"v": {value}}}', fields={"v": {"data_type": data_type}})
    assert found == {"v": Quality.BAD_DECODING}


def test_patterns_name_the_asset_and_the_field() -> None:
    pattern = TopicPattern("plant/{asset}/+/{field}")
    assert pattern.filter == "plant/+/+/+"
    assert pattern.match("plant/pump-1/x/flow") == ("pump-1", "flow")
    assert pattern.match("plant/pump-1/flow") is None
    assert pattern.match("other/pump-1/x/flow") is None
    assert TopicPattern("a/#").match("a/b/c") == ("", "")
    assert TopicPattern("#").match("$SYS/broker") is None


@pytest.mark.parametrize("pattern", ["", "a/#/b", "a/b+", "{asset}/{asset}", "a/{x}", "a/{asset}s"])
def test_patterns_that_cannot_be_are_refused_with_what_would_be_right(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        TopicPattern(pattern)


@pytest.mark.parametrize("topic", [{}, {"time": "t", "payload": "value"}])
def test_a_topic_that_tells_the_time_says_where_it_is(topic: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="tells_time needs"):
        TopicSettings.model_validate({"pattern": "p", "asset": "a", "tells_time": True} | topic)


@pytest.mark.parametrize(
    ("payload", "told"),
    [('{"t": 1900000000}', 1_900_000_000 * 10**9), ('{"t": 12}', None), ('{"t": "x"}', None)],
)
def test_a_time_that_can_be_is_told(payload: str, told: int | None) -> None:
    _, _, reader = take(payload + " ", time="t", tells_time=True)
    assert reader.told_ns(payload.encode()) == told
    assert take(payload)[2].told_ns(payload.encode()) is None
