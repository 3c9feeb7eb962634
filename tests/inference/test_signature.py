from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import BundleInvalid
from gateway.inference.bundle import load_bundle
from gateway.inference.signature import CONTEXT
from tests.inference.bundles import write_bundle

OURS = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([1] * 32))


def public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def sign(folder: Path, key: Ed25519PrivateKey = OURS, context: bytes = CONTEXT) -> None:
    signature = key.sign(context + (folder / "bundle.toml").read_bytes())
    (folder / "signature.toml").write_text(
        f'key = "{public(key)}"\nsignature = "{signature.hex()}"\n'
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def test_a_signed_bundle_says_by_whom_and_an_unsigned_one_by_nobody(folder: Path) -> None:
    assert load_bundle(folder).signed_by == ""
    sign(folder)
    assert load_bundle(folder).signed_by == public(OURS)
    assert load_bundle(folder, [public(OTHER), public(OURS)]).signed_by == public(OURS)


def test_with_trusted_keys_nobody_elses_bundle_is_taken(folder: Path) -> None:
    with pytest.raises(BundleInvalid, match=r"signature.toml.*missing"):
        load_bundle(folder, [public(OURS)])
    sign(folder, OTHER)
    with pytest.raises(BundleInvalid, match=f"{public(OTHER)} is not among"):
        load_bundle(folder, [public(OURS)])


@pytest.mark.parametrize("trusted", [[], [public(OURS)]])
def test_a_manifest_changed_after_signing_is_refused_whoever_is_trusted(
    folder: Path, trusted: list[str]
) -> None:
    sign(folder)
    toml = folder / "bundle.toml"
    toml.write_text(toml.read_text().replace("threshold = 10.0", "threshold = 99.0"))
    with pytest.raises(BundleInvalid, match=r"not of this bundle\.toml"):
        load_bundle(folder, trusted)


def test_a_model_changed_after_signing_is_refused(folder: Path) -> None:
    sign(folder)
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\x0a\x00")
    with pytest.raises(BundleInvalid, match="sha256"):
        load_bundle(folder)


def test_a_signature_given_for_something_else_says_nothing(folder: Path) -> None:
    sign(folder, context=b"")
    with pytest.raises(BundleInvalid, match="not of this"):
        load_bundle(folder)


@pytest.mark.parametrize("content", [b"", b"key = 1", b"\xff", b'key = "ab"\nsignature = "cd"', b"[" * 4000])  # fmt: skip  # noqa: E501 - one table
def test_what_is_no_signature_is_refused_not_ignored(folder: Path, content: bytes) -> None:
    (folder / "signature.toml").write_bytes(content)
    with pytest.raises(BundleInvalid, match="not a signature"):
        load_bundle(folder)
