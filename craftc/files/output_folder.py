"""A folder of results, all or nothing: written next to its final place, then swapped in.

A kill at any moment leaves the old folder whole (or none, if there was none). The next run on the same folder removes
what a killed run left.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from craftc.errors import BadInput
from craftc.files.atomic_write import naming_the_path, sync

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def output_folder(path: Path, ours: tuple[str, ...]) -> Iterator[Path]:
    """An empty folder to write into; it replaces `path` when the block ends, and is deleted if the block raises.

    `ours` are the patterns of files that an earlier run may have left in `path` (relative, with `/`): a folder that
    holds anything else is never replaced. Raises BadInput then, and if the system refuses.
    """
    check_replaceable(path, ours)
    target = path.absolute()
    with naming_the_path(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        temporary = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
    lock = os.open(temporary, os.O_RDONLY)
    try:
        # Held until this process ends, however it ends: distinguishes a live run from what a killed one left.
        fcntl.flock(lock, fcntl.LOCK_EX)
        with naming_the_path(path):
            yield temporary
            _sync_all(temporary)
            check_replaceable(path, ours)
            temporary.chmod(0o755)
            _swap_in(temporary, target)
            sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def check_replaceable(path: Path, ours: tuple[str, ...]) -> None:
    """Raise BadInput if `path` cannot become an output folder; checked before long work, not after it."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise BadInput(f"output {path} exists and is not a folder: choose another name")
    if path.is_dir():
        strangers = [name for name in _files_below(path) if not any(fnmatchcase(name, pattern) for pattern in ours)]
        if strangers:
            raise BadInput(
                f"output folder {path} holds files that craftc did not write, such as {strangers[0]} "
                f"({len(strangers)} in all): choose a new folder"
            )
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BadInput(f"cannot write output folder {path}: no permission to write in {parent}")


def _files_below(folder: Path) -> list[str]:
    """Everything below `folder` that is not a real folder, relative, sorted."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    )


def _prefix(target: Path) -> str:
    return f".{target.name}.craftc-"


def _remove_leftovers(target: Path) -> None:
    for leftover in target.parent.glob(f"{glob.escape(_prefix(target))}*"):
        lock = os.open(leftover, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover)
        except BlockingIOError:
            continue  # another run is writing there now
        finally:
            os.close(lock)


def _sync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def _swap_in(temporary: Path, target: Path) -> None:
    """Make `temporary` the new `target`; the old folder, if there was one, is then at `temporary`."""
    if not target.exists():
        temporary.rename(target)
    elif not _exchange(temporary, target):
        # No atomic exchange here: between the two renames there is no `target`, yet both folders are whole.
        aside = temporary.with_name(f"{temporary.name}.old")
        target.rename(aside)
        temporary.rename(target)
        shutil.rmtree(aside)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step (Linux); False if the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code))
