"""A model on a cluster under a workload: everything that goodput depends on but the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.loads.name_layers import name_layers
from craftc.models.model_config import ModelConfig
from craftc.models.moe_layer import MoELayer
from craftc.models.serving_shape import ServingShape, serving_shape
from craftc.serving.cluster import Cluster
from craftc.serving.workload import Workload
from craftc.topology import Topology


@dataclass(frozen=True)
class ServingModel:
    """What serves, and what is served."""

    model: ModelConfig
    """The model, from its config."""
    cluster: Cluster
    """GPUs, network and settings of the server, each number with its source."""
    workload: Workload = field(default_factory=Workload)
    """Requests and limits."""

    def __post_init__(self) -> None:
        _ = self.shape, self.top_k_L  # refuses a model of which these are not known

    @cached_property
    def shape(self) -> ServingShape:
        """What the model takes outside its experts."""
        return serving_shape(self.model)

    @cached_property
    def top_k_L(self) -> tuple[int, ...]:
        """Experts per token in every MoE layer."""
        known = tuple(layer.top_k for layer in self.model.layers if layer.top_k is not None)
        if len(known) < len(self.model.layers):
            raise BadInput(
                f"the config does not say how many experts a token gets (model_type {self.model.model_type})"
            )
        return known

    @property
    def tensor_parallel(self) -> int:
        """GPUs that share the attention of one data-parallel rank."""
        return int(self.cluster.server.tensor_parallel.value)

    def peak_flops(self, dtype: str) -> float:
        """Peak operations per second of a GPU in a type; of its 16-bit type, if it has no units for that one."""
        chip = self.cluster.chip
        return 1e12 * chip.peak(dtype if chip.multiplies(dtype) else "bfloat16")

    @property
    def notes(self) -> tuple[str, ...]:
        """What was taken for something that is not stated, one line each."""
        chip = self.cluster.chip
        types = {"experts": self.shape.expert_dtype, "the other weights": self.shape.dense_dtype}
        missing = tuple(
            f"{chip.name} does not multiply in {dtype}: {what} are taken to be stored so and multiplied in bfloat16; "
            f"if the server converts them, give the config of the converted model"
            for what, dtype in types.items()
            if not chip.multiplies(dtype)
        )
        return (*self.shape.notes, *missing)

    def ranks(self, topology: Topology) -> int:
        """Data-parallel ranks. Raises BadInput if the GPUs are not those of the cluster's nodes."""
        per_node = int(self.cluster.node.gpus.value)
        if topology.gpus_per_node > per_node or (topology.nodes > 1 and topology.gpus_per_node != per_node):
            nodes = -(-topology.gpus // per_node)
            is_whole = nodes == 1 or topology.gpus % per_node == 0
            change = f"--nodes {nodes}" if is_whole else f"--gpus {nodes * per_node} --nodes {nodes}"
            raise BadInput(
                f"cluster {self.cluster.name} has {per_node} GPUs a node, but {topology.gpus} GPUs on {topology.nodes} "
                f"nodes are {topology.gpus_per_node} a node: give {change}, or another cluster file"
            )
        if topology.gpus_per_node % self.tensor_parallel:
            raise BadInput(
                f"tensor parallelism over {self.tensor_parallel} GPUs (cluster {self.cluster.name}) does not divide "
                f"the {topology.gpus_per_node} GPUs of a node: change server.tensor_parallel in the cluster file"
            )
        return topology.gpus // self.tensor_parallel

    def check_sizes(self, layers: Sequence[MoELayer]) -> None:
        """Raise BadInput if the experts of a plan's layers are not as large as the model's."""
        own = self.model.layers[len(self.model.layers) - len(layers) :]
        for planned, layer in zip(layers, own, strict=True):
            if planned.expert_bytes != layer.expert_bytes:
                raise BadInput(
                    f"layer {planned.name} of the plan has experts of {planned.expert_bytes} bytes, the model's config "
                    f"says {layer.expert_bytes}: give the config that the plan was made with, or --expert-bytes"
                )

    def matched(self, loads: LoadProfile) -> LoadProfile:
        """`loads` with the names of the model's layers. Raises BadInput if they are of another model."""
        return name_layers(loads, self.model)
