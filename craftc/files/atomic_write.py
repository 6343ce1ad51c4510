"""Write a file so that a kill at any moment leaves either the old file or the new one, never half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from craftc.errors import BadInput


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file next to `path` to write to; it replaces `path` when the block ends, and is deleted if the block
    raises.

    Raises BadInput, naming `path`, if the system refuses.
    """
    with naming_the_path(path):
        check_writable(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with naming_the_path(path):
            yield temporary
            sync(temporary)
            # mkstemp creates files that only the owner can read; a result gets the usual permissions.
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            sync(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, all or nothing."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def check_writable(path: Path) -> None:
    """Raise BadInput if a file cannot be created at `path`; checked before long work, not after it."""
    if not path.name or path.is_dir():
        raise BadInput(f"{path} is a folder: give the name of a file")
    if path.exists() and not path.is_file():  # renaming over /dev/null would remove it for the whole machine
        raise BadInput(f"cannot write {path}: it exists and is not a regular file; give another name")
    if not path.parent.is_dir():
        raise BadInput(f"cannot write {path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise BadInput(f"cannot write {path}: no permission to write in folder {path.parent}")


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def naming_the_path(path: Path) -> Iterator[None]:
    """Turn an error of the system (disk full, no permission, name too long) into one line about `path`."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}") from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
