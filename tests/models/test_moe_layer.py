from dataclasses import replace

import pytest

from craftc.errors import BadInput
from craftc.models.moe_layer import MoELayer


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"experts": 0}, "experts must be at least 1"),
        ({"expert_bytes": 0}, "expert_bytes must be at least 1"),
        ({"index": -1}, "index must not be negative"),
        ({"top_k": 9}, r"top_k must be in 1\.\.8"),
        ({"top_k": 0}, r"top_k must be in 1\.\.8"),
    ],
)
def test_impossible_layers_are_refused_by_name(change: dict[str, int], problem: str):
    good = MoELayer("mlp.experts", index=0, experts=8, expert_bytes=64, top_k=2)
    with pytest.raises(BadInput, match=f"layer mlp.experts: {problem}"):
        replace(good, **change)  # type: ignore[arg-type]
