"""The GPUs a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass

from craftc.errors import BadInput

MOST_GPUS = 65_536
"""More than any expert-parallel group has; a typing mistake must not use up all memory."""


@dataclass(frozen=True)
class Topology:
    """The GPUs to plan for: `gpus` expert-parallel ranks on `nodes` equal machines.

    GPU g is on node g // (gpus / nodes).
    """

    gpus: int
    """Number of GPUs (expert-parallel ranks), at least 1."""
    nodes: int = 1
    """Number of machines, at least 1; divides `gpus`."""

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise BadInput(f"topology: gpus must be at least 1, got {self.gpus}")
        if self.gpus > MOST_GPUS:
            raise BadInput(f"topology: at most {MOST_GPUS:,} GPUs, got {self.gpus:,}")
        if self.nodes < 1:
            raise BadInput(f"topology: nodes must be at least 1, got {self.nodes}")
        if self.gpus % self.nodes:
            raise BadInput(
                f"topology: {self.gpus} GPUs cannot be spread evenly over {self.nodes} nodes; "
                f"give a number of nodes that divides {self.gpus}"
            )

    @property
    def gpus_per_node(self) -> int:
        return self.gpus // self.nodes

    @property
    def node_of_gpu_G(self) -> tuple[int, ...]:
        """Node of every GPU, length `gpus`."""
        return tuple(gpu // self.gpus_per_node for gpu in range(self.gpus))
