"""Every MoE architecture of the installed transformers, built on the meta device, against what `read_model_config` says
of its config.json: layers, experts and bytes. Prints a table; not a test of its own, because it takes minutes.

    python -m tests.models.families_config_truth [MODEL_TYPE ...]

Each configuration class is tried with its defaults and as `tests.families.tiny` shrinks it. The exit code is 1 if an
architecture disagrees that `EXPLAINED` does not name.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from craftc.errors import CraftcError, one_line
from craftc.models.hugging_face import load_config
from craftc.models.model_config import read_model_config
from craftc.passes.analysis.tracing.experts import find_experts
from tests.families.tiny import tiny_configuration

Layers = dict[int, tuple[str, int, int]]
"""Path from the decoder layers on, experts and bytes of one expert, by decoder index."""
EXPLAINED = {
    "ernie4_5_vl": "its layers hold experts of two sizes, for text and for images",
    "jetmoe": "its experts are two stacks of matrices each, in attention too: another layout",
    "llama4": "its experts take tokens in an order of their own: found while tracing, not by their module",
    "longcat_flash": "its module holds rows for identity experts, which checkpoints do not",
    "muse_spark": "a norm of 8 KiB that all experts share is in its experts module",
    "switch_transformers": "encoder and decoder",
    "nllb-moe": "encoder and decoder",
}
"""Architectures whose modules differ from their checkpoints, or that are refused, and why."""


def main(arguments: list[str]) -> int:
    """Print a line for each configuration; the exit code."""
    from transformers import CONFIG_MAPPING

    outcomes = [
        (model_type, kind, _outcome(config))
        for model_type in arguments or list(CONFIG_MAPPING.keys())
        for kind, config in configurations(CONFIG_MAPPING[model_type])
    ]
    unexplained = 0
    for model_type, kind, outcome in outcomes:
        reason = next((why for name, why in EXPLAINED.items() if model_type.startswith(name)), None)
        is_wrong = outcome.startswith("DIFFERS") and reason is None
        unexplained += is_wrong
        print(f"{model_type:28} {kind:8} {outcome}{f' ({reason})' if reason and not is_wrong else ''}")
    print(f"{len(outcomes)} configurations, {unexplained} differ without a reason")
    return 1 if unexplained else 0


def configurations(kind: type) -> Iterator[tuple[str, Any]]:
    """The configurations of a class that have experts, with the name of how they were made."""
    for name, make in (("default", lambda: kind()), ("tiny", lambda: tiny_configuration(kind))):
        try:
            config = make()
            if re.search(r'"[a-z_]*(expert|moe)[a-z_]*": ([2-9]|[1-9]\d|\[)', config.to_json_string(use_diff=False)):
                yield name, config
        except Exception:  # a class without defaults that hold together has no configuration to read
            continue


def _outcome(config: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(json.loads(config.to_json_string(use_diff=False)) | {"dtype": "bfloat16"}))
        try:
            model = load_config(path)[0]
        except CraftcError as error:
            return f"not built: {one_line(error)[:120]}"
        built = _built(model)
        try:
            layers = read_model_config(path).layers
        except CraftcError as error:
            return f"DIFFERS refused: {str(error).partition(': ')[2][:120]}" if built else "no experts, and refused"
    read = {layer.index: (_from_layers(layer.name), layer.experts, layer.expert_bytes) for layer in layers}
    if read == built:
        (_, experts, size), *_ = read.values()
        return f"{len(read)} layers from {min(read)} to {max(read)}, {experts} experts of {size:,} bytes"
    odd = next(index for index in sorted(read.keys() | built.keys()) if read.get(index) != built.get(index))
    return f"DIFFERS in layer {odd}: read {read.get(odd)}, built {built.get(odd)}; {len(read)} and {len(built)} layers"


def _built(model: nn.Module) -> Layers:
    found: Layers = {}
    for experts in find_experts(model)[0]:
        module = model.get_submodule(experts.path)
        size = sum(weight.numel() * weight.element_size() for weight in module.parameters()) // experts.experts
        index = int(re.findall(r"\d+", experts.path)[0])
        found[index] = (_from_layers(experts.path), experts.experts, size)
    return found


def _from_layers(path: str) -> str:
    return re.sub(r"^.*?\b(layers|blocks)\.", r"\1.", path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
