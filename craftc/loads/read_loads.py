"""Recorded loads in any known format, detected from the content."""

from __future__ import annotations

from pathlib import Path

from craftc.errors import BadInput
from craftc.files.outside_documents import require_file_or_folder
from craftc.loads.file import why_not_ours
from craftc.loads.load_profile import LoadProfile
from craftc.loads.registry import load_format, load_names

_HEAD_BYTES = 64 * 1024


def read_loads(path: str | Path, format_name: str | None = None) -> LoadProfile:
    """Read measured loads: a file of craftc's own, or what a server recorded.

    path: a file, or the folder of one recording.
    format_name: as in `--loads-format`; None detects the format from the content.

    Raises BadInput in one line that begins with the path.
    """
    path = Path(path)
    require_file_or_folder(path)
    if format_name is None:
        format_name = detect_loads(path)
    try:
        return load_format(format_name).read(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from None


def detect_loads(path: Path) -> str:
    """Name of the format of the recording at `path`. Raises BadInput if none fits."""
    require_file_or_folder(path)
    try:
        head = b"" if path.is_dir() else _head(path)
        found = next((name for name in load_names() if load_format(name).recognises(path, head)), None)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from None
    if found is None:
        what = "is a folder" if path.is_dir() else why_not_ours(head)
        known = ", ".join(load_names())
        raise BadInput(f"{path} {what}; not a recording of expert loads in any known format ({known})")
    return found


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)
