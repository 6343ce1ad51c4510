"""craftc's own `.safetensors` with `counts [steps, layers, experts]`, behind the same door as recordings."""

from __future__ import annotations

from pathlib import Path

from craftc.loads.file import read_loads
from craftc.loads.load_format import LoadFormat


def recognises(path: Path, head: bytes) -> bool:
    """A JSON header after eight bytes of length."""
    return head[8:9] == b"{" and not head.startswith(b"{")


FORMAT = LoadFormat(name="safetensors", server="craftc", recognises=recognises, read=read_loads)
