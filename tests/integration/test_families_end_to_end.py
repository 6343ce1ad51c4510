"""Every family, and the plain example, through one path: trace, profile, plan for 4 GPUs, rewrite, verify."""

from __future__ import annotations

import pytest
import torch

import craftc
from craftc.api import Optimized
from craftc.passes.analysis.tracing.model import call_model
from tests.model_families import FAMILIES, build_family, example_inputs

REPLACEABLE = [name for name, family in FAMILIES.items() if family.experts_abi]
FOUR_GPUS = craftc.Topology(gpus=4, nodes=2)


@pytest.mark.parametrize("family", REPLACEABLE)
def test_family(family: str):
    model, example = build_family(family)
    batches = [example_inputs(batch=3, tokens=11, seed=seed) for seed in range(2)]
    result = craftc.optimize(model, example, FOUR_GPUS, "1replicas/gpu", calibration_inputs=batches)
    check(result)
    assert [layer.index for layer in result.plan.layers] == list(FAMILIES[family].layers)
    other = example_inputs(batch=1, tokens=5, seed=9)
    with torch.no_grad():
        torch.testing.assert_close(result.model(**other), call_model(model, other), rtol=0, atol=1e-6)


def test_plain_example():
    from examples.plain_moe import model as plain

    model, example, batches = plain.build_model(), plain.example_inputs(), plain.calibration_inputs
    result = craftc.optimize(model, example, FOUR_GPUS, "1replicas/gpu", calibration_inputs=batches)
    check(result)
    assert len(result.plan.layers) == plain.BLOCKS - 1


def check(result: Optimized) -> None:
    verification = result.verification
    assert all(verification.max_abs_difference[what] <= verification.tolerance[what] for what in verification.tolerance)
    assert sum(layer.replicas for layer in result.plan.layers) > 0
