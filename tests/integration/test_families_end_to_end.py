"""Every family, and the plain example, through one path: trace, plan for 4 GPUs, rewrite, verify."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from craftc.passes.base import Compilation, Pipeline, WorkloadInputs
from craftc.passes.find_moe_layers import FindMoELayers
from craftc.passes.rewrite_experts import RewriteExperts
from craftc.passes.trace import Trace
from craftc.passes.tracing_model import call_model
from craftc.passes.verify_rewrite import VerifyRewrite
from tests.model_families import FAMILIES, build_family, example_inputs
from tests.passes.traced import planned

REPLACEABLE = [name for name, family in FAMILIES.items() if family.experts_abi]


@pytest.mark.parametrize("family", REPLACEABLE)
def test_family(family):
    model, example = build_family(family)
    batches = [example_inputs(batch=3, tokens=11, seed=seed) for seed in range(2)]
    result = compiled(Compilation(model=model, inputs=WorkloadInputs(example, lambda: batches)))
    assert [layer.index for layer in result.layers] == list(FAMILIES[family].layers)
    other = example_inputs(batch=1, tokens=5, seed=9)
    with torch.no_grad():
        torch.testing.assert_close(result.graph(**other), call_model(model, other), rtol=0, atol=1e-6)


def test_plain_example():
    from examples.plain_moe import model as plain

    inputs = WorkloadInputs(plain.example_inputs(), plain.calibration_inputs)
    result = compiled(Compilation(model=plain.build_model(), inputs=inputs))
    assert len(result.layers) == plain.BLOCKS - 1


def compiled(start: Compilation) -> Any:
    found, _ = Pipeline((Trace(), FindMoELayers())).run(start)
    result, _ = Pipeline((RewriteExperts(), VerifyRewrite())).run(planned(found, gpus=4, replicas=4))
    verification = result.verification
    assert verification is not None
    assert all(verification.max_abs_difference[what] <= verification.tolerance[what] for what in verification.tolerance)
    return result
