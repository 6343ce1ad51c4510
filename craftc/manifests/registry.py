"""The formats craftc reads and writes: one line each, also from other packages through entry points."""

from __future__ import annotations

from collections.abc import Mapping

from craftc.files.plugins import find_format, format_names
from craftc.manifests.format import PlacementFormat
from craftc.manifests.load_format import LoadFormat

PLACEMENTS: Mapping[str, str] = {
    "sglang": "craftc.manifests.sglang",
    "trtllm": "craftc.manifests.trtllm",
    "vllm-ascend": "craftc.manifests.vllm_ascend",
    "vllm": "craftc.manifests.vllm_mapping",
    "vllm-list": "craftc.manifests.vllm_list",
    "omni": "craftc.manifests.omni",
    "csv": "craftc.manifests.csv_table",
    "onnx": "craftc.manifests.onnx_model",
}
"""Modules with a `FORMAT: PlacementFormat`."""

LOADS: Mapping[str, str] = {
    "npz": "craftc.manifests.npz_loads",
    "safetensors": "craftc.manifests.safetensors_loads",
    "sglang": "craftc.manifests.sglang_loads",
    "trtllm": "craftc.manifests.trtllm_loads",
    "vllm": "craftc.manifests.vllm_loads",
    "omni": "craftc.manifests.omni_loads",
    "craft": "craftc.manifests.craft_loads",
    "csv": "craftc.manifests.csv_loads",
}
"""Modules with a `FORMAT: LoadFormat`, in the order in which a file's content is tried."""

PLACEMENT_GROUP = "craftc.placement_formats"
"""Entry-point group: name = format, value = `package.module:PLACEMENT_FORMAT`."""
LOADS_GROUP = "craftc.load_formats"
"""Entry-point group: name = format, value = `package.module:LOAD_FORMAT`."""


def placement_names() -> tuple[str, ...]:
    """Names for `craftc export --to` and `craftc evaluate --as`, built-in ones first."""
    return format_names(PLACEMENTS, PLACEMENT_GROUP)


def load_names() -> tuple[str, ...]:
    """Names for `--loads-format`, built-in ones first, in the order in which content is tried."""
    return format_names(LOADS, LOADS_GROUP)


def placement_format(name: str) -> PlacementFormat:
    """The format called `name`. Raises BadInput where there is none, Unsupported where a plug-in is broken."""
    return find_format(name, PLACEMENTS, PLACEMENT_GROUP, PlacementFormat)


def load_format(name: str) -> LoadFormat:
    """The format called `name`. Raises BadInput where there is none, Unsupported where a plug-in is broken."""
    return find_format(name, LOADS, LOADS_GROUP, LoadFormat)
