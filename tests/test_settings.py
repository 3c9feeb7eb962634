from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.errors import SluicegateError
from gateway.settings import Bytes, Seconds, SecretReference, matches_any

seconds = TypeAdapter(Seconds)
size = TypeAdapter(Bytes)
secret = TypeAdapter(SecretReference)


@pytest.mark.parametrize(
    ("text", "value"),
    [("500ms", 0.5), ("1s", 1.0), ("1.5 s", 1.5), ("5m", 300.0), ("2h", 7200.0), ("7d", 604800.0)],
)
def test_durations_are_written_with_their_unit(text: str, value: float) -> None:
    assert seconds.validate_python(text) == value


@pytest.mark.parametrize("text", ["", "1", "1 sec", "-1s", "1s2", "s", "1e3s", True])
def test_other_durations_are_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValidationError, match=r'"1s"'):
        seconds.validate_python(text)


@pytest.mark.parametrize(
    ("text", "value"), [("64KiB", 65536), ("512MiB", 536870912), ("2 GiB", 2**31), ("9B", 9)]
)
def test_sizes_are_written_with_their_unit(text: str, value: int) -> None:
    assert size.validate_python(text) == value


def test_a_secret_is_read_each_time_it_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = secret.validate_python("env:INFLUX_TOKEN")
    monkeypatch.setenv("INFLUX_TOKEN", "one")
    assert token.read() == "one"
    monkeypatch.setenv("INFLUX_TOKEN", "two")
    assert token.read() == "two"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "token").write_text("three\n")
    assert secret.validate_python("file:token").read() == "three"


def test_a_byte_order_mark_is_no_part_of_a_secret(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xef\xbb\xbfgood\r\n")
    assert secret.validate_python(f"file:{tmp_path / 'token'}").read() == "good"


def test_a_missing_secret_says_which_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFLUX_TOKEN", raising=False)
    with pytest.raises(SluicegateError, match=r"INFLUX_TOKEN is not set \(set it"):
        secret.validate_python("env:INFLUX_TOKEN").read()
    with pytest.raises(SluicegateError, match="cannot read the secret file /nowhere/token"):
        secret.validate_python("file:/nowhere/token").read()


def test_a_secret_in_the_file_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        secret.validate_python("hunter2-in-plain")
    assert "hunter2-in-plain" not in caught.value.errors(include_input=False)[0]["msg"]


def test_patterns_match_names_case_and_all() -> None:
    assert matches_any("pump-1.flow", ("*.flow",))
    assert not matches_any("Pump-1.flow", ("pump-*",))
