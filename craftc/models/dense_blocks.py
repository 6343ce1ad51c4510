"""The weights of decoder layers beside attention and routed experts: routers, shared experts, dense MLPs; and the
tables of the vocabulary.
"""

from __future__ import annotations

from craftc.errors import BadInput
from craftc.models.config_fields import (
    EXPERT_INPUT,
    HIDDEN,
    MAX_EXPERTS,
    MAX_SIZE,
    Config,
    expert_width_names,
    number,
    numbers,
    present,
)
from craftc.models.dense_matrix import DenseMatrix
from craftc.models.family_facts import FAMILIES, UNKNOWN
from craftc.models.serving_facts import ServingFacts

_SHARED_WIDTH = (
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_experts_intermediate_size",
    "shared_intermediate_size",
    "share_expert_dim",
)
"""Names of the intermediate size of all shared experts together."""
_SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
"""Names of the number of shared experts."""
_DENSE_WIDTH = ("dense_intermediate_size", "intermediate_size_mlp", "intermediate_size", "ffn_hidden_size")
"""Names of the intermediate size of dense layers, the surest first."""


def sparse_block(
    config: Config, model_type: str, facts: ServingFacts, index: int, layers: int, experts: int
) -> tuple[DenseMatrix, ...]:
    """What an MoE layer has beside `experts` routed experts. Raises BadInput naming the field that is wrong."""
    hidden = number(config, HIDDEN, MAX_SIZE)
    identities = config.get("zero_expert_num")
    outputs = experts + (identities if type(identities) is int else 0)
    found = [DenseMatrix("mlp.gate", outputs, hidden, is_plain=True)]
    width = _shared_width(config, model_type, facts, index, layers)
    if width:
        found += _mlp("mlp.shared_experts", hidden, width, _is_gated(model_type))
    if width and facts.has_shared_gate:
        found.append(DenseMatrix("mlp.shared_expert_gate", 1, hidden, is_plain=True))
    latent = present(config, EXPERT_INPUT)
    if latent and number(config, latent, MAX_SIZE) != hidden:
        size = number(config, latent, MAX_SIZE)
        found += [DenseMatrix("mlp.fc1_latent_proj", size, hidden), DenseMatrix("mlp.fc2_latent_proj", hidden, size)]
    return tuple(found)


def dense_block(config: Config, model_type: str) -> tuple[DenseMatrix, ...]:
    """A dense MLP. Raises BadInput if no field says how large it is."""
    names = present(config, _DENSE_WIDTH)[:1]
    hidden = number(config, HIDDEN, MAX_SIZE)
    return tuple(_mlp("mlp", hidden, number(config, names or ("intermediate_size",), MAX_SIZE), _is_gated(model_type)))


def layer_inputs(config: Config, layers: int) -> tuple[DenseMatrix, ...]:
    """Gemma 4: what a decoder layer adds of a second table of embeddings, if there is one."""
    if not config.get("hidden_size_per_layer_input"):
        return ()
    hidden, size = number(config, HIDDEN, MAX_SIZE), number(config, ("hidden_size_per_layer_input",), MAX_SIZE)
    return (
        DenseMatrix("per_layer_input_gate", size, hidden),
        DenseMatrix("per_layer_projection", hidden, size),
        DenseMatrix("per_layer_model_projection", size, hidden),  # a part of one matrix for all layers
    )


def table_values(config: Config, layers: int, is_tied: bool) -> int:
    """Values of the embeddings and the head, which are one if they are tied. Raises BadInput."""
    vocabulary, hidden = number(config, ("vocab_size",), MAX_SIZE), number(config, HIDDEN, MAX_SIZE)
    second = 0
    if config.get("hidden_size_per_layer_input"):
        size = number(config, ("hidden_size_per_layer_input",), MAX_SIZE)
        second = layers * size * number(config, ("vocab_size_per_layer_input",), MAX_SIZE)
    return vocabulary * hidden * (1 if is_tied else 2) + second


def _shared_width(config: Config, model_type: str, facts: ServingFacts, index: int, layers: int) -> int:
    """Intermediate size of all shared experts of an MoE layer together; 0 if it has none."""
    if facts.shared_width is not None and not present(config, _SHARED):
        return number(config, (facts.shared_width,), MAX_SIZE)
    names = present(config, _SHARED)
    count = _own(config, names[0], index) if names else None
    if count == 0:
        return 0
    widths = [name for name in present(config, _SHARED_WIDTH) if config[name] != 0]
    if widths:
        return number(config, widths, MAX_SIZE)
    if count is None:
        return 0
    if type(count) is not int or not 0 < count <= MAX_EXPERTS:
        raise BadInput(f"{names[0]} must be a whole number, got {count!r}")
    facts_of_experts = FAMILIES.get(model_type, UNKNOWN)
    width_names = expert_width_names(config, facts_of_experts.width or "intermediate_size")
    return count * numbers(config, width_names, MAX_SIZE, layers)[index]


def _own(config: Config, key: str, index: int) -> object:
    value = config[key]
    if not isinstance(value, list):
        return value
    if len(value) <= index:
        raise BadInput(f"{key} must hold a number for each decoder layer, got {value!r}")
    own: object = value[index]
    return own


def _mlp(path: str, hidden: int, width: int, is_gated: bool) -> list[DenseMatrix]:
    gate = [DenseMatrix(f"{path}.gate_proj", width, hidden)] if is_gated else []
    return [*gate, DenseMatrix(f"{path}.up_proj", width, hidden), DenseMatrix(f"{path}.down_proj", hidden, width)]


def _is_gated(model_type: str) -> bool:
    return FAMILIES.get(model_type, UNKNOWN).gated
