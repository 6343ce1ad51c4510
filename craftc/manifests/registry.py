"""Placement formats that craftc writes and reads: one line each, also from other packages through entry points."""

from __future__ import annotations

from collections.abc import Mapping

from craftc.files.plugins import find_format, format_names
from craftc.manifests.format import PlacementFormat

PLACEMENTS: Mapping[str, str] = {
    "sglang": "craftc.manifests.sglang:FORMAT",
    "trtllm": "craftc.manifests.trtllm:FORMAT",
    "vllm-ascend": "craftc.manifests.vllm_ascend:FORMAT",
    "vllm": "craftc.manifests.vllm_mapping:FORMAT",
    "vllm-list": "craftc.manifests.vllm_list:FORMAT",
    "omni": "craftc.manifests.omni:FORMAT",
    "csv": "craftc.manifests.csv_table:FORMAT",
    "onnx": "craftc.manifests.onnx.model:FORMAT",
}
"""Where every `PlacementFormat` is, in the notation of entry points."""

PLACEMENT_GROUP = "craftc.placement_formats"
"""Entry-point group: name = format, value = `package.module:PLACEMENT_FORMAT`."""


def placement_names() -> tuple[str, ...]:
    """Names for `craftc export --to` and `craftc evaluate --as`, built-in ones first."""
    return format_names(PLACEMENTS, PLACEMENT_GROUP)


def placement_format(name: str) -> PlacementFormat:
    """The format called `name`. Raises BadInput if there is none, Unsupported if a plug-in is broken."""
    return find_format(name, PLACEMENTS, PLACEMENT_GROUP, PlacementFormat)
