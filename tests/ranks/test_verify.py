from __future__ import annotations

from craftc.passes.rewriting.checking.output_comparison import Difference
from craftc.ranks.verify import worst_of


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
