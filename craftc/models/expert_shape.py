"""The matrices of the experts of one layer, from the fields of a config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from craftc.errors import Unsupported
from craftc.models.config_fields import (
    EXPERT_INPUT,
    HIDDEN,
    MAX_SIZE,
    Config,
    expert_width_names,
    number,
    numbers,
    present,
)
from craftc.models.expert_matrix import ExpertMatrix
from craftc.models.family_facts import UNKNOWN_BLOCKS, FamilyFacts
from craftc.models.quantization_settings import GIVE_SIZE
from craftc.models.sparse_layers import sparse_layers

_SPELLINGS = {
    "gate": ("gate_proj", "w1", "gate_up_proj"),
    "up": ("up_proj", "w3", "gate_up_proj"),
    "down": ("down_proj", "w2"),
}
"""What checkpoints call the three matrices, the fused ones included."""
_LINEAR = {"gate": "input_linear", "up": "input_linear", "down": "output_linear"}
"""What Granite calls the matrices of all experts."""


@dataclass(frozen=True)
class ExpertShape:
    """One expert of one layer."""

    hidden: int
    """Size of what an expert takes and gives, at least 1."""
    width: int
    """Its intermediate size, at least 1."""
    gated: bool
    """Whether it has a gate matrix."""
    biased: bool
    """Whether every matrix has a bias."""

    @property
    def parameters(self) -> int:
        """Weights of its matrices."""
        return self.hidden * self.width * (3 if self.gated else 2)

    @property
    def biases(self) -> int:
        """Bias values, which are never quantised."""
        return self.hidden + self.width * (2 if self.gated else 1) if self.biased else 0

    def matrices(self, blocks: Sequence[str], expert: int, block_is_known: bool) -> tuple[ExpertMatrix, ...]:
        """Its matrices, named as expert number `expert` of a layer whose MoE block may have any path of `blocks`."""
        roles = ("gate", "up", "down") if self.gated else ("up", "down")
        return tuple(
            ExpertMatrix(
                *((self.hidden, self.width) if role == "down" else (self.width, self.hidden)),
                tuple(_names(block, expert, role) for block in blocks),
                block_is_known,
            )
            for role in roles
        )


def expert_shapes(config: Config, facts: FamilyFacts | None, layers: int) -> list[ExpertShape]:
    """The shape of an expert in each of `layers` decoder layers. Raises BadInput naming the field that is wrong.

    facts: of the architecture, or None if it is known by its fields alone.
    """
    hidden = number(config, present(config, EXPERT_INPUT) or HIDDEN, MAX_SIZE)
    if facts is not None:
        width = facts.width
    else:  # where nothing tells dense layers from sparse ones, there is only one kind of intermediate size
        width = "intermediate_size" if sparse_layers(config, layers, None) is None else None
    if facts is None:
        _check_gated(config)
    gated = facts is None or facts.gated
    return [
        ExpertShape(hidden, size, gated, facts is not None and facts.biased)
        for size in numbers(config, expert_width_names(config, width), MAX_SIZE, layers)
    ]


def _check_gated(config: Config) -> None:
    """Raise Unsupported if experts of an architecture that is not known may have no gate."""
    for key in ("hidden_act", "hidden_activation", "mlp_hidden_act"):
        activation = str(config.get(key) or "silu").lower()
        if not activation.startswith(("silu", "swish", "swiglu", "gelu", "geglu")):
            raise Unsupported(f"{key} {activation!r}: whether experts have a gate matrix is not known; {GIVE_SIZE}")


def block_paths(index: int, facts: FamilyFacts | None) -> tuple[str, ...]:
    """Where the MoE block of decoder layer `index` may be, from `layers` on."""
    if facts is None:
        return tuple(f"layers.{index}.{block}" for block in UNKNOWN_BLOCKS)
    layer = f"{facts.stack.rpartition('.')[2]}.{index}"
    return tuple(f"{layer}.{block}" if block else layer for block in (facts.block, *facts.stored_blocks))


def _names(block: str, expert: int, role: str) -> tuple[str, ...]:
    own = tuple(f"{block}.experts.{expert}.{name}" for name in _SPELLINGS[role])
    fused = tuple(f"{block}.experts.{name}" for name in _SPELLINGS[role][-1:])
    linear = (f"{block}.{_LINEAR[role]}",) if block.endswith("block_sparse_moe") else ()
    return own + fused + linear
