from __future__ import annotations

import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.ranks.profile import summed_loads


@pytest.mark.parametrize("steps", [1, 2, 5, 6])
def test_steps_come_back_in_the_order_of_the_stream(steps):
    whole = LoadProfile.from_counts(
        np.arange(1, 1 + steps * 6).reshape(steps, 2, 3), step_names=tuple(f"step {step}" for step in range(steps))
    )
    parts = [whole.select_steps(slice(rank, None, 3)) if rank < steps else None for rank in range(3)]
    together = summed_loads(parts)
    np.testing.assert_array_equal(together.counts_SLE, whole.counts_SLE)
    assert together.step_names == whole.step_names


def test_no_batch_on_any_rank():
    with pytest.raises(BadInput, match="yields no batch"):
        summed_loads([None, None])
