"""Signature: who answers for a bundle. Ed25519 over bundle.toml, which names model.onnx's sha256.

    signature.toml      key = "<public key, 64 hexadecimal digits>"
                        signature = "<128 hexadecimal digits>"

What is signed is CONTEXT and the bytes of bundle.toml, so that a signature given for something
else with the same key says nothing here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field, ValidationError

from gateway.inference.manifest import MANIFEST, invalid, read_file
from gateway.settings import Settings

__all__ = ["CONTEXT", "SIGNATURE", "signed_by"]

SIGNATURE = "signature.toml"
CONTEXT = b"sluicegate bundle\n"
SIGNATURE_BYTES_MAX = 4096


class _Signature(Settings):
    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")


def signed_by(folder: Path, manifest: bytes, trusted: Sequence[str]) -> str:
    """The public key, as 64 hexadecimal digits, that signed these bytes; empty when nobody did.

    Raises BundleInvalid when there is a signature and it is wrong, or when some keys are trusted
    and it is not by one of them.
    """
    file = folder / SIGNATURE
    if not file.exists() and not file.is_symlink():
        if trusted:
            found, mend = "it is missing, and trusted_keys are named", "sign the bundle with one"
            raise invalid(file, "", found, mend)
        return ""
    try:
        text = read_file(file, SIGNATURE_BYTES_MAX).decode("utf-8")
        said = _Signature.model_validate(tomllib.loads(text))
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(said.key))
        public.verify(bytes.fromhex(said.signature), CONTEXT + manifest)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ValidationError) as error:
        mend = "it has key and signature as hexadecimal digits; sign the bundle anew"
        raise invalid(file, "", "it is not a signature", mend) from error
    except (InvalidSignature, ValueError) as error:
        found = f"it is not of this {MANIFEST}"
        mend = "the bundle was changed after it was signed: copy it again, or sign it anew"
        raise invalid(file, "signature", found, mend) from error
    if trusted and said.key not in trusted:
        mend = "add the key to trusted_keys, if you know whose it is"
        raise invalid(file, "key", f"{said.key} is not among the trusted_keys", mend)
    return said.key
