"""The device's key is made once, is its owner's alone, and what it signs the engine believes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import BundleInvalid, SluicegateError
from gateway.inference.keys import DeviceKey
from gateway.inference.signature import SIGNATURE, signed_by


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key.pem"
    key = DeviceKey.open(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert DeviceKey.open(path).public == key.public
    assert names_in(path.parent) == ["key.pem"]


def test_what_it_signs_is_believed_and_nothing_else(tmp_path: Path) -> None:
    key, other = DeviceKey.open(tmp_path / "a"), DeviceKey.open(tmp_path / "b")
    (tmp_path / SIGNATURE).write_bytes(key.signature_of(b"manifest"))
    assert signed_by(tmp_path, b"manifest", [key.public]) == key.public
    with pytest.raises(BundleInvalid, match="was changed after"):
        signed_by(tmp_path, b"manifesto", [])
    with pytest.raises(BundleInvalid, match="not among the trusted_keys"):
        signed_by(tmp_path, b"manifest", [other.public])


def test_a_key_that_others_may_read_is_refused_with_the_mend(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    DeviceKey.open(path)
    path.chmod(0o644)
    with pytest.raises(SluicegateError, match="chmod 600"):
        DeviceKey.open(path)


@pytest.mark.parametrize("content", [b"", b"secret", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_what_is_no_key_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(SluicegateError, match="is not an Ed25519 key"):
        DeviceKey.open(path)
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SluicegateError, match="cannot be used"):
        DeviceKey.open(tmp_path / "file" / "key.pem")
