"""The load of every GPU in every layer as a drawing: experts in order next to a plan, on the same colour scale.

Axes: S steps, L layers, G GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from craftc.files.atomic_write import atomic_file
from craftc.loads.load_profile import LoadProfile
from craftc.loads.match import check_loads_fit
from craftc.plans.replication_plan import ReplicationPlan
from craftc.solvers.planners.contiguous import contiguous_placements
from craftc.solvers.problem import Placement, PlanningProblem, Shares
from craftc.solvers.replay import gpu_loads, replay

_Panel = tuple[str, Sequence[Placement], Sequence[Shares | None]]
"""Title, and placement and shares of every layer."""


def draw_gpu_loads(plan: ReplicationPlan, loads: LoadProfile, path: Path) -> None:
    """Write the drawing to `path` as SVG, whole or not at all; same plan and loads, same bytes.

    Raises BadInput if plan and loads do not belong together, or the file cannot be written.
    """
    import matplotlib

    check_loads_fit(loads, plan.moe_layers, "plan")
    sizes_L = tuple(layer.expert_bytes for layer in plan.layers)
    problem = PlanningProblem(
        loads.counts_SLE, plan.topology, sizes_L, budget_bytes=0, layer_experts=loads.layer_experts
    )
    in_order = contiguous_placements(problem)
    planned = [layer.placement for layer in plan.layers]
    shares_L = [layer.shares for layer in plan.layers]
    panels: list[_Panel] = [
        ("experts in order", in_order, [None] * loads.layers),
        (f"this plan, {plan.replicas / plan.topology.gpus:.3g} replicas per GPU", planned, shares_L),
    ]
    with matplotlib.rc_context({"svg.hashsalt": "craftc", "svg.fonttype": "none", "font.size": 9}):
        figure = _figure(loads, panels)
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None}, bbox_inches="tight")


def relative_loads(
    loads: LoadProfile, placements: Sequence[Placement], shares_L: Sequence[Shares | None]
) -> np.ndarray:
    """`load_LG`: GPU load over the mean GPU load of the same step and layer, averaged over steps with tokens."""
    rows = []
    for layer, (placement, shares) in enumerate(zip(placements, shares_L, strict=True)):
        load_SG = gpu_loads(loads.counts_SLE[:, layer], placement, shares)
        mean_S1 = load_SG.mean(axis=1, keepdims=True)
        rows.append((load_SG / np.where(mean_S1 > 0, mean_S1, 1))[mean_S1[:, 0] > 0].mean(axis=0))
    return np.stack(rows)


def _figure(loads: LoadProfile, panels: Sequence[_Panel]) -> Any:
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure

    load_PLG = np.stack([relative_loads(loads, placements, shares_L) for _, placements, shares_L in panels])
    layers, gpus = load_PLG.shape[1:]
    # Pale if a GPU has its fair share, whatever the worst one has.
    norm = TwoSlopeNorm(vmin=0, vcenter=1, vmax=max(2, float(load_PLG.max())))
    figure = Figure(figsize=(min(11, 4.5 + 0.4 * gpus), 1.4 + min(7, 0.32 * layers)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, load_LG, (title, placements, shares_L) in zip(axes, load_PLG, panels, strict=True):
        balancedness = replay(loads.counts_SLE, placements, shares_L).mean()
        image = axis.imshow(load_LG, aspect="auto", cmap="RdYlBu_r", norm=norm)
        axis.set_title(f"{title}\nbalancedness {balancedness:.2f}")
        axis.set_xlabel("GPU")
        if gpus <= 16:
            axis.set_xticks(range(gpus))
        if layers <= 24:
            axis.set_yticks(range(layers))
    axes[0].set_ylabel("MoE layer")
    figure.colorbar(image, ax=axes, label="load / mean load")
    return figure
