"""Formats of loads that craftc reads: one line each, also from other packages through entry points."""

from __future__ import annotations

from collections.abc import Mapping

from craftc.files.plugins import find_format, format_names
from craftc.loads.load_format import LoadFormat

LOADS: Mapping[str, str] = {
    "npz": "craftc.loads.file:NPZ",
    "safetensors": "craftc.loads.file:SAFETENSORS",
    "sglang": "craftc.loads.recordings.sglang:FORMAT",
    "trtllm": "craftc.loads.recordings.trtllm:FORMAT",
    "vllm": "craftc.loads.recordings.vllm:FORMAT",
    "omni": "craftc.loads.recordings.omni:FORMAT",
    "craft": "craftc.loads.recordings.craft:FORMAT",
    "csv": "craftc.loads.recordings.csv_table:FORMAT",
}
"""Where every `LoadFormat` is, in the order in which detection tries them."""

LOADS_GROUP = "craftc.load_formats"
"""Entry-point group: name = format, value = `package.module:LOAD_FORMAT`."""


def load_names() -> tuple[str, ...]:
    """Names for `--loads-format`, built-in ones first, in the order in which detection tries them."""
    return format_names(LOADS, LOADS_GROUP)


def load_format(name: str) -> LoadFormat:
    """The format called `name`. Raises BadInput if there is none, Unsupported if a plug-in is broken."""
    return find_format(name, LOADS, LOADS_GROUP, LoadFormat)
