from __future__ import annotations

from tests.backend.compiled_ranks import main
from tests.forked_ranks import run_ranks


def test_the_compiled_model_runs_on_two_ranks():
    run_ranks(main, 2, 180.0)
