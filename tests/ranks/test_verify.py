from __future__ import annotations

import json

from craftc.passes.rewriting.checking.output_comparison import Difference
from craftc.ranks.verify import verify_rank, worst_of
from tests.deployment.outputs import optimized
from tests.runtime.one_rank import one_rank  # noqa: F401

ONLY_IN_FLOAT32 = """
import torch
from tests.passes.analysis.tracing.dispatch_styles import tokens
from tests.passes.analysis.tracing.stacked_styles import NormAfter


class Constant(NormAfter):
    def forward(self, x):
        return super().forward(x @ torch.eye(x.shape[-1]))


def build_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(Constant()).eval()


def example_inputs():
    return {"input": tokens(2, 16)["x"]}
"""


def test_the_worst_of_all_ranks_is_reported():
    ranks = [
        ({"float32": Difference(1e-6, 1e-5, "output 0"), "bfloat16": Difference(0.1, 0.2, "output 0")}, 0.01),
        ({"float32": Difference(2e-6, 1e-4, "output 0"), "bfloat16": Difference(float("nan"), 0.2, "output 0")}, 0.02),
    ]
    found = worst_of(ranks)
    assert found.max_abs_difference["float32"] == 1e-6
    assert found.tolerance["float32"] == 1e-5
    assert found.max_abs_difference["bfloat16"] != found.max_abs_difference["bfloat16"]
    assert found.max_token_deviation == 0.02


def test_a_dtype_that_the_model_does_not_run_in_is_skipped(one_rank, tmp_path):  # noqa: F811
    (tmp_path / "model.py").write_text(ONLY_IN_FLOAT32)
    spec = str(tmp_path / "model.py")
    optimized(tmp_path / "out", spec)
    result = tmp_path / "result.json"
    verify_rank(spec, tmp_path / "out" / "plan.json", result, one_rank)
    found = json.loads(result.read_text())
    assert set(found["max_abs_difference"]) == {"float32", "float32, GPU by GPU"}
    assert set(found["skipped"]) == {"bfloat16"}
