"""craftc's own `.npz` with `counts [steps, layers, experts]`, behind the same door as recordings."""

from __future__ import annotations

from pathlib import Path

from craftc.files.torch_file import is_torch_zip
from craftc.loads.file import read_loads
from craftc.loads.load_format import LoadFormat


def recognises(path: Path, head: bytes) -> bool:
    """A zip file that torch did not make."""
    return head.startswith(b"PK") and not is_torch_zip(head)


FORMAT = LoadFormat(name="npz", server="craftc, NumPy", recognises=recognises, read=read_loads)
