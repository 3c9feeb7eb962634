"""Keys: the device's own Ed25519 key, with which it signs the bundles it has made.

It is made on first use, in a file that only its owner may read, and never leaves it. What others
need to believe a bundle is the public key: 64 hexadecimal digits for `trusted_keys`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from gateway.errors import SluicegateError
from gateway.inference.signature import CONTEXT
from gateway.owners import give_to_owner, make_folder

__all__ = ["DeviceKey"]

KEY_BYTES_MAX = 16 * 1024


class DeviceKey:
    """A private key in a file."""

    def __init__(self, key: Ed25519PrivateKey, path: Path) -> None:
        self._key = key
        self.path = path
        self.public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    @classmethod
    def open(cls, path: Path) -> Self:
        """The key in a file, made if there is none. Raises SluicegateError."""
        try:
            if not path.exists():
                _make(path)
            return cls(_load(path), path)
        except OSError as error:
            raise SluicegateError(
                f"the key {path} cannot be used: {error.strerror}",
                hint="run this as the gateway's user, or name another file with --key",
            ) from error

    def signature_of(self, manifest: bytes) -> bytes:
        """The content of signature.toml for a bundle.toml."""
        signature = self._key.sign(CONTEXT + manifest).hex()
        return f'key = "{self.public}"\nsignature = "{signature}"\n'.encode()


def _load(path: Path) -> Ed25519PrivateKey:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise SluicegateError(
            f"the key {path} may be read by others (mode {mode:o})",
            hint=f"chmod 600 {path}; and if others may have read it, delete it: a new one is made",
        )
    with path.open("rb") as file:
        content = file.read(KEY_BYTES_MAX)
    try:
        key = load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SluicegateError(
            f"{path} is not an Ed25519 key in PEM without a passphrase",
            hint="name another file with --key; one that is not there is made",
        )
    return key


def _make(path: Path) -> None:
    """A new key in a new file; another process may have been faster, which is as good."""
    content = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    make_folder(path.parent)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        give_to_owner(unfinished)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(unfinished)  # unlike a rename it replaces nothing
    finally:
        unfinished.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
