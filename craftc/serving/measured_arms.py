"""The arms that measurements are of: planned as their rows say, or read from the files of plans that they name."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from craftc.errors import BadInput
from craftc.plans.file import read_plan
from craftc.serving.arm import Arm
from craftc.serving.arms import baseline_arms, planned_arms
from craftc.serving.held_out import HeldOut
from craftc.serving.measurements import Measurement
from craftc.serving.plan_comparison import topology_words
from craftc.serving.serving_model import ServingModel
from craftc.serving.simulate import plan_arm
from craftc.solvers.planners.registry import PLANNERS
from craftc.solvers.planners.uniform import UNIFORM
from craftc.topology import Topology

_NONE, _EPLB = "none", "eplb"
_ROUNDED = 0.5
"""Replicas per GPU by which a row may differ from its plan: people round."""


def measured_arms(
    measurements: Sequence[Measurement], split: HeldOut, server: ServingModel, topology: Topology
) -> dict[tuple[str, float], Arm]:
    """An arm for every pair of a name and replicas per GPU in `measurements`.

    Names are `none` (placement only), `eplb` (as published, where there are as many replicas), other planners, or files
    of plans for the same GPUs.

    Raises BadInput, naming the line, for a row that is none of them, or has another number of replicas than its plan.
    """
    none, eplb = baseline_arms(split, server, topology)
    planned: dict[str, dict[int, Arm]] = {}
    arms: dict[tuple[str, float], Arm] = {}
    for row in measurements:
        key = row.arm, row.replicas_per_gpu
        if key in arms:
            continue
        if row.arm == _NONE:
            arms[key] = none
        elif row.arm == _EPLB and math.isclose(row.replicas_per_gpu, eplb.replicas_per_gpu, abs_tol=_ROUNDED):
            arms[key] = eplb
        elif row.arm.removesuffix(UNIFORM) not in PLANNERS:
            arms[key] = _of_file(row, split, server, topology)
        else:
            if row.arm not in planned:
                counts = [_whole_replicas(other) for other in measurements if other.arm == row.arm]
                planned[row.arm] = planned_arms(row.arm, counts, split, server, topology)
            arms[key] = _placed(row, planned[row.arm], topology)
    return arms


def _whole_replicas(row: Measurement) -> int:
    if not float(row.replicas_per_gpu).is_integer():
        raise BadInput(
            f"{row.where}: planner {row.arm} is given whole replicas per GPU, not {row.replicas_per_gpu:g}: name the "
            f"file of the plan that was measured"
        )
    return int(row.replicas_per_gpu)


def _placed(row: Measurement, arms: Mapping[int, Arm], topology: Topology) -> Arm:
    count = _whole_replicas(row)
    if count not in arms or (count > 0 and arms[count].replicas_per_gpu == 0):
        raise BadInput(f"{row.where}: planner {row.arm} cannot place {count} replicas per GPU on {topology.gpus} GPUs")
    return arms[count]


def _of_file(row: Measurement, split: HeldOut, server: ServingModel, topology: Topology) -> Arm:
    if not os.path.isfile(row.arm):
        raise BadInput(
            f"{row.where}: {row.arm!r} is not {_NONE}, a planner ({', '.join(PLANNERS)}) or the file of a plan"
        )
    plan = read_plan(row.arm)
    if plan.topology != topology:
        raise BadInput(
            f"{row.where}: {row.arm} is for {topology_words(plan.topology)}, not {topology_words(topology)}: calibrate "
            f"with measurements of the same server"
        )
    own = plan.replicas / topology.gpus
    if abs(own - row.replicas_per_gpu) > _ROUNDED:
        raise BadInput(
            f"{row.where}: {row.arm} has {own:g} replicas per GPU, but replicas_per_gpu is {row.replicas_per_gpu:g}"
        )
    return plan_arm(row.arm, plan, split.judged, server)
