"""What every format of recorded loads is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from craftc.loads.load_profile import LoadProfile


@dataclass(frozen=True)
class LoadFormat:
    """One system's recording of expert loads."""

    name: str
    """As given to `--loads-format`."""
    server: str
    """System and version whose files or source were read."""
    recognises: Callable[[Path, bytes], bool]
    """Whether the content is of this format, from the path and the first bytes of the file (empty for a folder). Never
    raises.
    """
    read: Callable[[Path], LoadProfile]
    """The recording. Raises BadInput with one clear line on anything wrong or partial."""
