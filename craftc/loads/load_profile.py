"""Measured expert loads as a value; `craftc.loads.file` reads and writes files of them.

Axes: S steps, L MoE layers (by ordinal), E logical experts of the layer that has most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from craftc.errors import BadInput
from craftc.solvers.problem import checked_layer_experts


@dataclass(frozen=True, eq=False)
class LoadProfile:
    """Tokens routed to every expert of every MoE layer, step by step."""

    counts_SLE: np.ndarray
    """Tokens, int64 `[steps, layers, experts]`, not negative, read-only; every layer has at least one token."""
    layer_names: tuple[str, ...]
    """Path of the experts module of every layer, length L."""
    layer_indices: tuple[int, ...]
    """Decoder block index of every layer, length L."""
    top_k: tuple[int | None, ...]
    """Experts per token of every layer if known, length L."""
    step_names: tuple[str, ...] = ()
    """Workload of every step (`prefill`, `wiki`, ...), length S, or empty if steps have no names."""
    provenance: str = ""
    """Where the loads come from: a file, or the model and its calibration inputs."""
    layer_experts: tuple[int, ...] | None = None
    """Experts of every layer, length L, if layers differ: the largest is E, and counts beyond a layer's own are 0. None
    if every layer has E."""

    @classmethod
    def from_counts(
        cls,
        counts: np.ndarray,
        *,
        layer_names: tuple[str, ...] | None = None,
        layer_indices: tuple[int, ...] | None = None,
        top_k: tuple[int | None, ...] | None = None,
        step_names: tuple[str, ...] = (),
        provenance: str = "",
        layer_experts: tuple[int, ...] | None = None,
    ) -> LoadProfile:
        """A profile from a bare `[steps, layers, experts]` array; names default to `layers.<ordinal>`."""
        layers = counts.shape[1] if counts.ndim == 3 else 0
        return cls(
            counts,
            layer_names or tuple(f"layers.{ordinal}" for ordinal in range(layers)),
            layer_indices or tuple(range(layers)),
            top_k or (None,) * layers,
            step_names,
            provenance,
            layer_experts,
        )

    def __post_init__(self) -> None:
        counts_SLE = _checked_counts(np.asarray(self.counts_SLE), self.layer_names)
        object.__setattr__(self, "counts_SLE", counts_SLE)
        steps, layers, _ = counts_SLE.shape
        for field, length in (("layer_names", layers), ("layer_indices", layers), ("top_k", layers)):
            if len(getattr(self, field)) != length:
                raise BadInput(f"loads: {len(getattr(self, field))} {field} for {length} layers")
        if self.step_names and len(self.step_names) != steps:
            raise BadInput(f"loads: {len(self.step_names)} step names for {steps} steps")
        try:
            layer_experts = checked_layer_experts(self.layer_experts, counts_SLE)
        except BadInput as error:
            raise BadInput(f"loads: {error}") from None
        object.__setattr__(self, "layer_experts", layer_experts)

    @property
    def steps(self) -> int:
        return self.counts_SLE.shape[0]

    @property
    def layers(self) -> int:
        return self.counts_SLE.shape[1]

    @property
    def experts(self) -> int:
        """E, of the layer that has most."""
        return self.counts_SLE.shape[2]

    @property
    def experts_L(self) -> tuple[int, ...]:
        """Experts of every layer."""
        return self.layer_experts or (self.experts,) * self.layers

    @property
    def experts_text(self) -> str:
        """How many experts layers have, in words."""
        least = min(self.experts_L)
        return f"{self.experts} experts" if least == self.experts else f"{least} to {self.experts} experts"

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of shape, of experts per layer if layers differ, and of counts, hex."""
        shape = self.counts_SLE.shape
        digest = hashlib.sha256(repr(shape if self.layer_experts is None else (*shape, self.layer_experts)).encode())
        digest.update(np.ascontiguousarray(self.counts_SLE, dtype="<i8").data)
        return digest.hexdigest()

    def select_steps(self, steps: slice | Sequence[int]) -> LoadProfile:
        """The profile of some steps, by number: `profile.select_steps(slice(0, None, 2))` has the even ones."""
        chosen = range(self.steps)[steps] if isinstance(steps, slice) else steps
        names = tuple(self.step_names[step] for step in chosen) if self.step_names else ()
        counts_SLE = self.counts_SLE[steps if isinstance(steps, slice) else list(steps)]
        return replace(self, counts_SLE=counts_SLE, step_names=names)

    def select_layers(self, ordinals: Sequence[int]) -> LoadProfile:
        """The profile of some layers, by ordinal."""
        experts_L = tuple(self.experts_L[ordinal] for ordinal in ordinals)
        return replace(
            self,
            counts_SLE=self.counts_SLE[:, list(ordinals)][:, :, : max(experts_L)],
            layer_names=tuple(self.layer_names[ordinal] for ordinal in ordinals),
            layer_indices=tuple(self.layer_indices[ordinal] for ordinal in ordinals),
            top_k=tuple(self.top_k[ordinal] for ordinal in ordinals),
            layer_experts=experts_L,
        )


def _checked_counts(counts: np.ndarray, layer_names: tuple[str, ...]) -> np.ndarray:
    """`counts` as read-only int64, copied only if needed. Raises BadInput naming the first bad cell."""
    if counts.ndim != 3:
        raise BadInput(
            f"loads: counts must have 3 axes [steps, layers, experts], got shape {list(counts.shape)}; "
            f"reshape a single step to [1, layers, experts]"
        )
    if 0 in counts.shape:
        raise BadInput(f"loads: counts is empty, shape {list(counts.shape)}; record at least one step")
    if counts.dtype.kind not in "iuf":
        raise BadInput(f"loads: counts must be numbers, got dtype {counts.dtype}")
    if counts.dtype.kind == "f":
        _refuse_cells(~np.isfinite(counts), counts, "is not finite")
        _refuse_cells(counts != np.floor(counts), counts, "is not a whole number of tokens")
    if counts.dtype.kind in "if":
        _refuse_cells(counts < 0, counts, "is negative")
    _refuse_cells(counts > 2**53, counts, "is larger than 2^53")
    tokens_L = counts.sum(axis=(0, 2), dtype=np.float64)
    if tokens_L.max() > 2**62:  # sums over steps are int64
        raise BadInput(f"loads: layer {int(tokens_L.argmax())} has {tokens_L.max():.3g} tokens, more than 2^62 in all")
    if not tokens_L.all():
        ordinal = int(np.flatnonzero(tokens_L == 0)[0])
        name = layer_names[ordinal] if ordinal < len(layer_names) else "?"
        raise BadInput(
            f"loads: layer {ordinal} ({name}) has no tokens in any of {counts.shape[0]} steps; "
            f"drop dense layers and record with traffic"
        )
    if counts.dtype == np.int64 and counts.flags.c_contiguous and _is_frozen(counts):
        return counts
    checked = np.array(counts, dtype=np.int64)
    checked.flags.writeable = False
    return checked


def _is_frozen(array: np.ndarray) -> bool:
    """Whether neither the array nor an array that it is a view of can be written to."""
    return not array.flags.writeable and (
        array.base is None or (isinstance(array.base, np.ndarray) and _is_frozen(array.base))
    )


def _refuse_cells(bad_SLE: np.ndarray, counts_SLE: np.ndarray, problem: str) -> None:
    if not bad_SLE.any():
        return
    step, layer, expert = (int(i) for i in np.argwhere(bad_SLE)[0])
    value = counts_SLE[step, layer, expert]
    raise BadInput(
        f"loads: counts[step {step}, layer {layer}, expert {expert}] = {value} {problem} "
        f"({int(bad_SLE.sum())} such cells of {bad_SLE.size})"
    )
