"""Numbers of a config, read under every name that they have, and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from craftc.errors import BadInput

MAX_LAYERS = 10_000
MAX_EXPERTS = 65_536
MAX_SIZE = 2**24
TOP_K = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "top_k_experts",
    "experts_per_token",
    "num_selected_experts",
    "router_top_k",
)
"""Names of the number of experts per token."""
WIDTH = (
    "moe_intermediate_size",
    "expert_ffn_hidden_size",
    "moe_ffn_hidden_size",
    "expert_intermediate_size",
    "routed_expert_intermediate_size",
)
"""Names of an expert's intermediate size, before `intermediate_size`."""
_DENSE_WIDTH = ("dense_intermediate_size", "intermediate_size_mlp")
"""Names of the intermediate size of dense layers, where `intermediate_size` is that of experts."""
EXPERT_INPUT = ("moe_latent_size", "moe_hidden_size", "moe_latent_dim", "moe_input_size")
"""Names of the size of what experts take, where it is not the hidden size."""
HIDDEN = ("hidden_size", "d_model", "n_embd", "hidden_dim", "dim")
"""Names of the hidden size."""

Config = Mapping[str, Any]


def present(config: Config, keys: Sequence[str]) -> list[str]:
    """Those of `keys` that `config` has, not as null."""
    return [key for key in keys if config.get(key) is not None]


def number(config: Config, keys: Sequence[str], largest: int) -> int:
    """The whole number in 1..largest that is called one of `keys`. Raises BadInput naming it."""
    return numbers(config, keys, largest, 1)[0]


def numbers(config: Config, keys: Sequence[str], largest: int, layers: int) -> list[int]:
    """A number for each of `layers`: one for all, or a list. Raises BadInput, also if two names give two numbers."""
    names = present(config, keys)
    if not names:
        key = next((key for key in keys if key in config), keys[0])
        raise BadInput(f"{key} must be a whole number in 1..{largest}, got None")
    first, *others = (_one_each(config, name, largest, layers) for name in names)
    if any(other != first for other in others):
        both = " and ".join(f"{name} ({config[name]})" for name in names)
        raise BadInput(f"{both} give different numbers of the same thing: keep the one that is right")
    return first


def _one_each(config: Config, name: str, largest: int, layers: int) -> list[int]:
    value = config[name]
    values = value if isinstance(value, list) and layers > 1 else [value] * layers
    if len(values) < layers:
        raise BadInput(
            f"{name} must be one number, or one for each of {layers} layers, got {value!r} (layers with "
            f"two kinds of experts are not known)"
        )
    for each in values:
        if type(each) is not int or not 1 <= each <= largest:
            raise BadInput(f"{name} must be a whole number in 1..{largest}, got {each!r}")
    return list(values[:layers])


def count(config: Config, key: str, largest: int = MAX_LAYERS) -> int:
    """The whole number in 0..largest that is called `key`. Raises BadInput."""
    value = config.get(key)
    if type(value) is not int or not 0 <= value <= largest:
        raise BadInput(f"{key} must be a number of layers, got {value!r}")
    return value


def expert_width_names(config: Config, other: str | None) -> Sequence[str]:
    """The names under which `config` has the intermediate size of experts.

    other: the name of theirs in this architecture if there is none that is named for experts.

    Raises BadInput if the size has no name that is sure.
    """
    if present(config, WIDTH):
        return present(config, WIDTH)
    unsure = [
        key
        for key, value in config.items()
        if ("expert" in key or "moe" in key)
        and "shared" not in key
        and any(word in key for word in ("intermediate", "ffn", "hidden_size", "hidden_dim"))
        and value is not None
        and key not in EXPERT_INPUT
    ]
    if unsure:
        raise BadInput(
            f"{unsure[0]} may be the intermediate size of experts, but is not known here; give --expert-bytes"
        )
    if other is not None:
        return (other,)
    if not present(config, _DENSE_WIDTH):
        raise BadInput(
            f"{WIDTH[0]} is missing: it is the intermediate size of experts (intermediate_size is that of dense "
            f"layers); add it, or give --expert-bytes"
        )
    return ("intermediate_size",)
