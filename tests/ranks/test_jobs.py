"""What is refused before a rank starts; the jobs themselves are in tests/integration/test_ranks_commands.py."""

from __future__ import annotations

import pytest

from craftc.errors import BadInput
from craftc.plans.file import write_plan
from craftc.ranks.jobs import profile_on_ranks, verify_on_ranks
from tests.plans.sample_plans import toy_plan


def test_ranks_must_be_the_plans_gpus(tmp_path):
    write_plan(toy_plan(), tmp_path / "plan.json")
    with pytest.raises(BadInput, match=r"plan\.json is for 2 GPUs, not for 4 ranks: give --ranks 2"):
        verify_on_ranks("model.py", tmp_path / "plan.json", 4)


def test_steps_must_be_at_least_1():
    with pytest.raises(BadInput, match="steps must be at least 1, got 0"):
        profile_on_ranks("model.py", 2, 0, None)
