"""The formats craftc reads and writes: one line each, also from other packages through entry points."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from craftc.errors import BadInput, Unsupported
from craftc.manifests.format import PlacementFormat

if TYPE_CHECKING:
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
    return _names(PLACEMENTS, PLACEMENT_GROUP)


def load_names() -> tuple[str, ...]:
    """Names for `--loads-format`, built-in ones first, in the order in which content is tried."""
    return _names(LOADS, LOADS_GROUP)


def placement_format(name: str) -> PlacementFormat:
    """The format called `name`. Raises BadInput where there is none, Unsupported where a plug-in is broken."""
    found = _find(name, PLACEMENTS, PLACEMENT_GROUP)
    if not isinstance(found, PlacementFormat):
        raise Unsupported(f"format {name!r}: entry point of group {PLACEMENT_GROUP} is no PlacementFormat")
    return found


def load_format(name: str) -> LoadFormat:
    """The format called `name`. Raises BadInput where there is none, Unsupported where a plug-in is broken."""
    from craftc.manifests.load_format import LoadFormat

    found = _find(name, LOADS, LOADS_GROUP)
    if not isinstance(found, LoadFormat):
        raise Unsupported(f"format {name!r}: entry point of group {LOADS_GROUP} is no LoadFormat")
    return found


def _names(built_in: Mapping[str, str], group: str) -> tuple[str, ...]:
    return (*built_in, *sorted(set(entry_points(group=group).names) - set(built_in)))


def _find(name: str, built_in: Mapping[str, str], group: str) -> object:
    """Built-in formats cannot be replaced: what `sglang` means does not depend on what else is installed."""
    if name in built_in:
        return import_module(built_in[name]).FORMAT
    plugins = entry_points(group=group, name=name)
    if not plugins:
        raise BadInput(f"format {name!r}: expected one of {', '.join(_names(built_in, group))}")
    return _load(next(iter(plugins)), group)


def _load(plugin: EntryPoint, group: str) -> object:
    try:
        return plugin.load()
    except Exception as error:  # whatever a foreign package raises on import
        raise Unsupported(f"format {plugin.name!r} ({group}, {plugin.value}) cannot be loaded: {error!r}") from error
