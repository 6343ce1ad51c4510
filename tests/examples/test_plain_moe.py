"""The example without transformers: the same passes find, trace and profile it, in a process that cannot import it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from craftc.models.model_file import ModelSource, load_model_source
from craftc.passes.analysis.profile_loads import ProfileLoads
from craftc.passes.compilation import Compilation
from craftc.passes.pipelines import profiled
from tests.places import ROOT

MODEL = ROOT / "examples" / "plain_moe" / "model.py"

WITHOUT_TRANSFORMERS = f"""
import sys
sys.modules["transformers"] = None
from craftc.models.model_file import load_model_source
from craftc.passes.analysis.profile_loads import ProfileLoads
from craftc.passes.pipelines import profiled
source = load_model_source({str(MODEL)!r})
print(profiled(source.model, source.inputs, ProfileLoads()).loads.counts_SLE.shape)
"""


@pytest.fixture(scope="module")
def source() -> ModelSource:
    return load_model_source(str(MODEL))


@pytest.fixture(scope="module")
def compilation(source) -> Compilation:
    return profiled(source.model, source.inputs, ProfileLoads())


def test_its_three_moe_layers_are_found_as_lists_of_modules_and_the_dense_block_is_not(compilation):
    expert_bytes = 3 * 32 * 64 * 4
    assert [
        (layer.name, layer.index, layer.experts, layer.top_k, layer.layout, layer.expert_bytes)
        for layer in compilation.layers
    ] == [(f"blocks.{block}.mlp.experts", block, 8, 2, "module_list", expert_bytes) for block in (1, 2, 3)]


def test_its_loads_are_what_its_own_routers_chose(source, compilation):
    chosen: dict[int, list[torch.Tensor]] = {1: [], 2: [], 3: []}
    for block in chosen:
        router = source.model.get_submodule(f"blocks.{block}.mlp.router")
        router.register_forward_hook(lambda _module, _args, output, block=block: chosen[block].append(output[1]))
    with torch.no_grad():
        for batch in source.inputs.calibration():
            source.model(**batch)
    expected_LSE = [[step.flatten().bincount(minlength=8).tolist() for step in chosen[block]] for block in chosen]
    assert np.array_equal(compilation.loads.counts_SLE, np.swapaxes(expected_LSE, 0, 1))
    assert (compilation.loads.counts_SLE.sum(axis=2) == 4 * 32 * 2).all()


def test_its_deeper_layers_are_more_skewed_so_that_layers_differ(compilation):
    load_LE = compilation.loads.counts_SLE.sum(axis=0)
    skew_L = load_LE.max(axis=1) / load_LE.mean(axis=1)
    assert skew_L[-1] > skew_L[0]
    assert skew_L[-1] > 1.5


def test_it_runs_where_transformers_is_not_installed():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRANSFORMERS], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "(8, 3, 8)", done.stderr
