"""Memory for replicas as people write it: `64GiB`, `1GiB/gpu`, `8replicas/gpu`, `12.5%`, `auto`.

A budget is parsed once, without knowing the model, and resolved to bytes once layers and topology are known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from craftc.errors import BadInput, Infeasible
from craftc.models.moe_layer import MoELayer
from craftc.topology import Topology
from craftc.units import format_size, parse_size

Kind = Literal["bytes", "bytes_per_gpu", "replicas_per_gpu", "fraction", "auto"]

_FORMS = "64GiB (all GPUs together), 1GiB/gpu, 8replicas/gpu, 12.5% (of the experts' memory) or auto"
_PER_GPU = re.compile(r"(.*\S)\s*/\s*gpu", re.IGNORECASE | re.DOTALL)
_REPLICAS = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:replicas?|copy|copies)", re.IGNORECASE)
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")
_LONGEST = 64
"""Longest budget that is read, in characters; errors quote it."""


@dataclass(frozen=True)
class Budget:
    """A parsed budget; `resolve_budget` turns it into bytes."""

    text: str
    """As the user wrote it."""
    kind: Kind
    """What `amount` counts."""
    amount: Fraction
    """Bytes, bytes per GPU, replicas per GPU, or a fraction of the experts' memory (1 is all of it); 0 for `auto`."""


def parse_budget(text: str) -> Budget:
    """Read a budget. Raises BadInput for anything else, and for `8G`, which has two readings."""
    written = text.strip()
    if len(written) > _LONGEST:
        raise BadInput(f"budget of {len(written)} characters: expected {_FORMS}")
    if written.lower() == "auto":
        return Budget(written, "auto", Fraction(0))
    if written.startswith("-"):
        raise BadInput(f"budget {written!r} is negative: write 0B for placement without replicas, or {_FORMS}")
    if percent := _PERCENT.fullmatch(written):
        return Budget(written, "fraction", Fraction(percent[1]) / 100)
    if per_gpu := _PER_GPU.fullmatch(written):
        return _parse_per_gpu(written, per_gpu[1])
    if _REPLICAS.fullmatch(written):
        raise BadInput(f"budget {written!r}: replicas are counted per GPU, write {written}/gpu")
    return Budget(written, "bytes", Fraction(_bytes_in(written, written)))


def resolve_budget(budget: Budget, layers: Sequence[MoELayer], topology: Topology) -> int:
    """Bytes for replicas on all GPUs in total; for `auto` the largest useful budget, to choose within.

    Replicas per GPU are counted in experts of the largest layer. Raises BadInput if the budget asks for more
    replicas than there is room for (an expert at most once on every GPU), and Infeasible if it is above zero but does
    not pay for one replica, or leaves GPUs without any expert.
    """
    total_bytes = _bytes_of(budget, layers, topology)
    smallest = min(layer.expert_bytes for layer in layers)
    if budget.amount > 0 and total_bytes < smallest:
        raise Infeasible(
            f"budget {budget.text!r} is {format_size(total_bytes)}, {smallest - total_bytes:,} bytes less than one "
            f"replica of the smallest expert takes: give at least {smallest}B, or 0B for placement without replicas"
        )
    _check_every_gpu_gets_an_expert(budget, layers, topology, total_bytes)
    return total_bytes


def most_replicas(layers: Sequence[MoELayer], topology: Topology) -> int:
    """How many replicas there is room for: every expert once on every GPU."""
    return sum(layer.experts for layer in layers) * (topology.gpus - 1)


def largest_useful_bytes(layers: Sequence[MoELayer], topology: Topology) -> int:
    """As many replicas in every layer as there are GPUs: benefit curves end there."""
    gpus = topology.gpus
    return sum(min(gpus, layer.experts * (gpus - 1)) * layer.expert_bytes for layer in layers)


def bytes_for_empty_gpus(layers: Sequence[MoELayer], topology: Topology) -> int:
    """The smallest budget that gives every GPU an expert; 0 if there are at least as many experts as GPUs."""
    missing = topology.gpus - sum(layer.experts for layer in layers)
    return max(0, missing) * min(layer.expert_bytes for layer in layers)


def _parse_per_gpu(written: str, amount: str) -> Budget:
    if replicas := _REPLICAS.fullmatch(amount):
        return Budget(written, "replicas_per_gpu", Fraction(replicas[1]))
    if _PERCENT.fullmatch(amount):
        raise BadInput(f"budget {written!r}: a percentage is of all experts' memory together, write {amount}")
    return Budget(written, "bytes_per_gpu", Fraction(_bytes_in(amount, written)))


def _bytes_in(amount: str, written: str) -> int:
    try:
        return parse_size(amount)
    except BadInput as error:
        if "expected a number" in str(error):
            raise BadInput(f"budget {written!r} cannot be read: expected {_FORMS}") from None
        raise BadInput(f"budget {written!r}: {error}") from None


def _bytes_of(budget: Budget, layers: Sequence[MoELayer], topology: Topology) -> int:
    if budget.kind == "auto":
        return largest_useful_bytes(layers, topology)
    if budget.kind == "replicas_per_gpu":
        _refuse_excess(budget, int(budget.amount * topology.gpus), layers, topology)
        return int(budget.amount * topology.gpus) * max(layer.expert_bytes for layer in layers)
    if budget.kind == "fraction":
        experts_bytes = sum(layer.experts * layer.expert_bytes for layer in layers)
        if budget.amount > topology.gpus - 1:
            raise BadInput(
                f"budget {budget.text!r}: on {topology.gpus} GPUs there is room for at most "
                f"{100 * (topology.gpus - 1)}% more experts, an expert once on every GPU; give a smaller budget"
            )
        return int(budget.amount * experts_bytes)
    total_bytes = int(budget.amount) * (topology.gpus if budget.kind == "bytes_per_gpu" else 1)
    if total_bytes > 2**63:
        raise BadInput(
            f"budget {budget.text!r} is {total_bytes:,} bytes in all, more than any machine has: at most 8 EiB"
        )
    return total_bytes


def _refuse_excess(budget: Budget, replicas: int, layers: Sequence[MoELayer], topology: Topology) -> None:
    most = most_replicas(layers, topology)
    if replicas > most:
        raise BadInput(
            f"budget {budget.text!r} asks for {replicas:,} replicas on {topology.gpus} GPUs, but there is room for "
            f"{most:,}, every expert once on every GPU: give at most {most // topology.gpus}replicas/gpu"
        )


def _check_every_gpu_gets_an_expert(
    budget: Budget, layers: Sequence[MoELayer], topology: Topology, total_bytes: int
) -> None:
    experts = sum(layer.experts for layer in layers)
    missing = topology.gpus - experts
    if missing <= 0:
        return
    needed_bytes = bytes_for_empty_gpus(layers, topology)
    if total_bytes < needed_bytes:
        raise Infeasible(
            f"{topology.gpus} GPUs, but {experts} experts in {len(layers)} layers: {missing} GPUs would hold none, and "
            f"budget {budget.text!r} is {needed_bytes - total_bytes:,} bytes short of replicas for them; "
            f"give at least {needed_bytes}B, or at most {experts} GPUs"
        )
