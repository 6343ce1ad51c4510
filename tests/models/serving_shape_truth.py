"""Every MoE architecture of the installed transformers, built on the meta device, against `serving_shape` of its
config.json: the weights of its decoder layers outside routed experts. Prints a table; not a test of its own, because it
takes a minute or two.

    python -m tests.models.serving_shape_truth [MODEL_TYPE ...]

The exit code is 1 if an architecture differs that `EXPLAINED` does not name. Refusals are counted by their reasons.
"""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from craftc.errors import CraftcError, one_line
from craftc.models.hugging_face import load_config
from craftc.models.model_config import read_model_config
from craftc.models.serving_shape import ServingShape, serving_shape
from tests.models.families_config_truth import configurations

EXPLAINED = {
    "ernie4_5_moe": "the biases of its routers are stored as matrices of one row",
    "kimi_linear": "decay rates of linear attention are stored as an array of four axes",
}
"""Architectures of which something is no vector by its shape, but one by its size, and what."""
_IN_LAYERS = re.compile(r"\b(?:layers|blocks)\.\d+\.|per_layer_model_projection")
_ROUTED = re.compile(
    r"(?:^|\.)(?:experts\.(?:gate_up_proj|down_proj|up_proj|gate_proj|w1|w2|w3|\d+|mlp)|"
    r"block_sparse_moe\.(?:input|output)_linear)"
)


def main(arguments: list[str]) -> int:
    """Print a line for each configuration; the exit code."""
    from transformers import CONFIG_MAPPING

    lines = [
        (model_type, kind, outcome(config))
        for model_type in arguments or list(CONFIG_MAPPING.keys())
        for kind, config in configurations(CONFIG_MAPPING[model_type])
    ]
    for model_type, kind, line in lines:
        print(f"{model_type:28} {kind:8} {line}")
    wrong = [name for name, _, line in lines if line.startswith("DIFFERS") and name not in EXPLAINED]
    for word in ("exact", "DIFFERS", "refused", "not built"):
        names = {name for name, _, line in lines if line.startswith(word)}
        count = sum(line.startswith(word) for _, _, line in lines)
        print(f"{word}: {count} configurations of {len(names)} architectures")
    return 1 if wrong else 0


def outcome(config: Any) -> str:
    """What `serving_shape` says of a configuration, and what its model has."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(json.loads(config.to_json_string(use_diff=False)) | {"dtype": "bfloat16"}))
        try:
            model = load_config(path)[0]
        except CraftcError as error:
            return f"not built: {one_line(error)[:100]}"
        try:
            shape = serving_shape(read_model_config(path))
        except CraftcError as error:
            return f"refused: {str(error).removeprefix(f'{path}: ')[:150]}"
    built = dense_values(model)
    if shape.dense_parameters == built:
        return f"exact: {built:,} weights, {described(shape)}"
    return f"DIFFERS: read {shape.dense_parameters:,}, built {built:,} ({shape.dense_parameters / built - 1:+.4%})"


def dense_values(model: nn.Module) -> int:
    """Values of all matrices in decoder layers outside routed experts."""
    return sum(
        math.prod(parameter.shape)
        for name, parameter in model.named_parameters()
        if _IN_LAYERS.search(name) and parameter.dim() > 1 and ("shared_expert" in name or not _ROUTED.search(name))
    )


def described(shape: ServingShape) -> str:
    """The cache in a few words."""
    parts = [f"{shape.kv_bytes_per_token} bytes of KV per token"] if shape.kv_bytes_per_token else []
    parts += [f"{window.bytes_per_token} in windows of {window.tokens}" for window in shape.windows]
    parts += [f"{shape.state_bytes} of state"] if shape.state_bytes else []
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
