"""Owners: what root makes in the service's folder must stay the service's.

Commands are given by hand, and mostly by root. A file that only root may write would keep the
gateway, which runs as another user, from its own folder.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["give_to_owner", "make_folder"]


def give_to_owner(*paths: Path) -> None:
    """Give each to the owner of the folder that it is in, if root calls."""
    if os.geteuid() != 0:
        return
    for path in paths:
        with contextlib.suppress(OSError):
            owner, own = path.parent.stat(), path.stat()
            if (own.st_uid, own.st_gid) != (owner.st_uid, owner.st_gid):
                os.chown(path, owner.st_uid, owner.st_gid)


def make_folder(path: Path) -> None:
    """The folder with its parents, each of the owner of the one above it. Raises OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    give_to_owner(*reversed(missing))
