"""What every placement format is made of: how a plan becomes bytes, how bytes become placements, and the flags that go
with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from craftc.errors import BadInput
from craftc.models.moe_layer import MoELayer
from craftc.plans.replication_plan import ReplicationPlan
from craftc.solvers.problem import Placement

if TYPE_CHECKING:  # only the ONNX format touches a model; the others must not pay for importing torch
    from torch import nn


MAX_DECODER_LAYERS = 10_000
"""More decoder layers than any model has: a wrong index must not inflate a file that has a row for each layer."""
SlotRule = Literal["any", "even", "uniform"]
"""`any`: every GPU and layer has its own number of slots.

`even`: the same number on every GPU within a layer. `uniform`: the same on every GPU in every layer.
"""


@dataclass(frozen=True)
class Target:
    """The deployment that a placement file is for: what the file itself does not say."""

    gpus: int
    """Expert-parallel ranks, at least 1."""
    layers: tuple[MoELayer, ...]
    """MoE layers by ordinal; their decoder indices ascend."""
    hidden_layers: int
    """Decoder layers of the model, dense ones included; greater than the last MoE layer's index."""

    def __post_init__(self) -> None:
        indices = [layer.index for layer in self.layers]
        if indices != sorted(set(indices)):
            raise BadInput(f"layer indices must ascend without repeats, got {indices}")
        if self.hidden_layers > MAX_DECODER_LAYERS:
            raise BadInput(f"{self.hidden_layers} decoder layers, expected at most {MAX_DECODER_LAYERS}")
        if indices and self.hidden_layers <= indices[-1]:
            raise BadInput(
                f"the model has {self.hidden_layers} decoder layers, but the plan holds decoder layer {indices[-1]}; "
                f"a server's placement file has no row for it (a multi-token-prediction layer?): plan without it"
            )


@dataclass(frozen=True)
class ExportSource:
    """Everything a writer may need."""

    plan: ReplicationPlan
    """What to write."""
    target: Target
    """The plan's layers and GPUs, and the number of decoder layers."""
    model: nn.Module | None = None
    """The original model: only the ONNX format needs it."""
    example: dict[str, Any] | None = None
    """Keyword arguments of one call of `model`."""


@dataclass(frozen=True)
class PlacementFormat:
    """One server's placement file."""

    name: str
    """As given to `craftc export --to`."""
    server: str
    """Server and the version whose loader was read or run."""
    slots: SlotRule
    """Which plans the file can hold."""
    suffix: str | None
    """Ending by which the server recognises the file, or None if it ignores the name."""
    keeps_slot_order: bool
    """Whether the file says in which slot of its GPU a copy is."""
    encode: Callable[[ExportSource], bytes]
    """The bytes of the file for a plan whose slot counts the format can hold."""
    decode: Callable[[bytes, Target], tuple[Placement, ...]]
    """One placement per MoE layer. Stricter than the server's own reader; raises BadInput on anything that
    `encode` would not write.
    """
    flags: Callable[[ExportSource, Path], tuple[str, ...]]
    """Server flags, environment variables and settings that go with the file, one line each, quoted to be copied into a
    shell or a YAML file as they are.
    """
    covers_dense_layers: bool = False
    """Whether the file has an entry for every decoder layer, so that it depends on their number."""
    needs_model: bool = False
    """Whether the model is written with the plan."""


def target_of_plan(plan: ReplicationPlan, hidden_layers: int | None = None) -> Target:
    """The plan's own target; without `hidden_layers` the last MoE layer is assumed to be the model's last layer."""
    layers = plan.moe_layers
    if hidden_layers is None:
        hidden_layers = max(layer.index for layer in layers) + 1
    return Target(plan.topology.gpus, layers, hidden_layers)
