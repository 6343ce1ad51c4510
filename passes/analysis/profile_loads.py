"""Measure loads: run the calibration inputs through the traced graph and count the tokens every expert gets.

The router's choice is an edge of the graph, so counting needs no hooks: a copy of the graph, cut after the last
router, returns one vector of counts per MoE layer. Nothing else of a step is kept, and the graph itself is not touched.
Axes: S steps, L MoE layers, E experts, T tokens, K experts per token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx

from craftc.errors import BadInput, CraftcError, one_line
from craftc.loads.load_profile import LoadProfile
from craftc.models.module_state import same_state
from craftc.models.moe_layer import MoELayer
from craftc.models.workload import WorkloadInputs
from craftc.passes.analysis.find_moe_layers import INDICES
from craftc.passes.analysis.tracing.block_graph import RECORDED
from craftc.passes.analysis.tracing.model import check_has_weights
from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, require_moe_layers, updated


@dataclass(frozen=True)
class Batch:
    """One step's inputs."""

    label: str
    """Its name in messages: `calibration batch 3`."""
    step_name: str
    """Its workload, or empty."""
    inputs: dict[str, Any]
    """Keyword arguments of the graph."""


@dataclass(frozen=True)
class ProfileLoads(Pass):
    """Counts tokens per expert, step by step; without calibration inputs, the example inputs are the only step."""

    mask_input: str | None = "attention_mask"
    """Input `[batch, sequence]` that is 0 for padding, whose tokens are not counted. None counts every token, and so
    does a batch without this input, and a layer whose block was recorded (`craftc.runtime.block_recording`)."""
    max_steps: int | None = None
    """Largest number of calibration batches to run, at least 1; None runs all."""
    model_name: str = "model"
    """Names the model in the profile's provenance."""
    on_step: Callable[[int], None] | None = field(default=None, compare=False, repr=False)
    """Called with the number of steps done, for progress."""

    name: ClassVar[str] = "profile_loads"
    needs: ClassVar[tuple[str, ...]] = ("graph", "layers", "inputs")
    gives: ClassVar[tuple[str, ...]] = ("loads",)

    def run(self, compilation: Compilation) -> Compilation:
        """Fill in `loads`. Raises BadInput naming the batch at fault."""
        if self.max_steps is not None and self.max_steps < 1:
            raise BadInput(f"profile: steps must be at least 1, got {self.max_steps}")
        require_moe_layers(compilation)
        check_has_weights(compilation.graph)
        counter = counting_graph(compilation.graph, self.mask_input)
        counts_SLE, step_names = [], []
        for batch in islice(batches_of(compilation.inputs), self.max_steps):
            counts_SLE.append(_counts_of(counter, batch))
            step_names.append(batch.step_name)
            if self.on_step:
                self.on_step(len(counts_SLE))
        if not counts_SLE:
            raise BadInput("profile: calibration_inputs() yields no batch; yield at least one, or leave it out")
        return updated(compilation, loads=self._profile(np.stack(counts_SLE), compilation.layers, step_names))

    def _profile(self, counts_SLE: np.ndarray, layers: tuple[MoELayer, ...], step_names: list[str]) -> LoadProfile:
        return LoadProfile(
            counts_SLE,
            tuple(layer.name for layer in layers),
            tuple(layer.index for layer in layers),
            tuple(layer.top_k for layer in layers),
            tuple(step_names) if any(step_names) else (),
            f"{self.model_name}: {len(step_names)} batches, {_tokens(counts_SLE, layers):,} tokens",
            tuple(layer.experts for layer in layers),
        )


def counting_graph(graph: fx.GraphModule, mask_input: str | None) -> fx.GraphModule:
    """`graph` up to its last experts node, returning the tokens per expert of every MoE layer: a tuple of int64 `[E]`.

    Shares modules and parameters with `graph`. What follows the last router is not run: its output is not needed.
    """
    counting = copy.deepcopy(graph.graph)  # nodes only: modules belong to the GraphModule
    mask = next((node for node in counting.nodes if node.op == "placeholder" and node.target == mask_input), None)
    nodes = list(counting.nodes)
    layer_nodes = [(node, node.meta["moe"]) for node in nodes if "moe" in node.meta]
    counts_L = []
    for node, layer in layer_nodes:
        with counting.inserting_before(node):
            known = None if RECORDED in node.meta else mask  # which of its rows are padding is not known
            counts_L.append(counting.call_function(count_tokens, (node.args[INDICES], layer.experts, known)))
    for node in reversed(nodes[nodes.index(layer_nodes[-1][0]) :]):
        counting.erase_node(node)
    counting.output(tuple(counts_L))
    counting.lint()
    return fx.GraphModule(graph, counting)


def count_tokens(indices_TK: torch.Tensor, experts: int, mask_BT: torch.Tensor | None) -> torch.Tensor:
    """Tokens per expert, int64 `[experts]`; ids outside 0..experts-1 (dropped) and masked tokens are not counted."""
    indices_TK = indices_TK.reshape(-1, indices_TK.shape[-1])
    counted_TK = indices_TK >= 0
    if mask_BT is not None:
        _check_mask(mask_BT, indices_TK.shape[0])
        counted_TK = counted_TK & (mask_BT != 0).reshape(-1, 1)
    # What is not counted goes to an extra bin: selecting would make a GPU wait for its own counts.
    binned = torch.where(counted_TK, indices_TK, experts).reshape(-1)
    return torch.bincount(binned, minlength=experts + 1)[:experts]


def padded_stack(counts_L: Sequence[torch.Tensor]) -> torch.Tensor:
    """`counts_LE` from the counts of every layer, with 0 for experts that a layer does not have."""
    most = max(len(counts_E) for counts_E in counts_L)
    return torch.stack([torch.nn.functional.pad(counts_E, (0, most - len(counts_E))) for counts_E in counts_L])


def _check_mask(mask_BT: torch.Tensor, tokens: int) -> None:
    if mask_BT.dim() == 2 and mask_BT.numel() == tokens:
        return
    raise BadInput(
        f"the padding mask must be [batch, sequence] of the {tokens} tokens that are routed, got shape "
        f"{list(mask_BT.shape)}; name another input as mask, or none to count every token"
    )


def batches_of(inputs: WorkloadInputs) -> Iterator[Batch]:
    """The calibration batches, named for messages; the example inputs if there are none. Raises BadInput."""
    if inputs.calibration is None:
        yield Batch("example inputs", "", inputs.example)
        return
    number = 0
    try:
        for item in inputs.calibration():
            yield _named_batch(f"calibration batch {number}", item)
            number += 1
    except CraftcError:
        raise
    except Exception as error:
        raise BadInput(f"calibration batch {number}: calibration_inputs() failed: {one_line(error)}") from error


def _named_batch(label: str, item: object) -> Batch:
    """A batch from what the user's stream yields: keyword arguments, or a pair of a step name and keyword arguments."""
    step_name = ""
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        step_name, item = item
    if not isinstance(item, dict):
        raise BadInput(
            f"{label} must be a dict of the forward's arguments, or a pair of a step name and such a dict, "
            f"got {type(item).__name__}"
        )
    return Batch(label, step_name, item)


def _counts_of(counter: fx.GraphModule, batch: Batch) -> np.ndarray:
    """Counts of one step, int64 `[L, E]`; 0 for experts that a layer does not have."""
    _check_arguments(counter, batch)
    try:
        with torch.no_grad(), same_state(counter):
            # forward, not a call: fx prints a failing call's generated source before it raises
            counts_LE = padded_stack(counter.forward(**batch.inputs)).cpu().numpy()
    except BadInput as error:
        raise BadInput(f"{batch.label}: {error}") from error
    except Exception as error:
        raise BadInput(f"{batch.label}: the model failed on it: {one_line(error)}") from error
    if not counts_LE.any():
        raise BadInput(f"{batch.label} has no token to count: its padding mask is 0 everywhere, or it is empty")
    return counts_LE


def _check_arguments(counter: fx.GraphModule, batch: Batch) -> None:
    placeholders = [node for node in counter.graph.nodes if node.op == "placeholder"]
    known = [str(node.target) for node in placeholders]
    missing = [str(node.target) for node in placeholders if not node.args and node.target not in batch.inputs]
    unknown = [name for name in batch.inputs if name not in known]
    if not missing and not unknown:
        return
    problems = [f"{what} {', '.join(names)}" for what, names in (("lacks", missing), ("adds", unknown)) if names]
    raise BadInput(
        f"{batch.label} {' and '.join(problems)}: give the arguments that the example inputs have, {', '.join(known)}"
    )


def _tokens(counts_SLE: np.ndarray, layers: tuple[MoELayer, ...]) -> int:
    """Tokens the first layer saw; find_moe_layers always knows K."""
    return int(counts_SLE[:, 0].sum()) // (layers[0].top_k or 1)
