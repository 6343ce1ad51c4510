"""`craftc plan --objective`: a plan made for it, and what does not go with it."""

import numpy as np
import pytest

from craftc.plans.file import read_plan
from tests.cli.command_line import run
from tests.solvers.test_objectives import two_kinds_of_steps

KINDS = (0, 0, 0, 0, 1)


@pytest.fixture
def loads(tmp_path):
    path = tmp_path / "loads.npz"
    counts = two_kinds_of_steps((20_000, 20_000, 20_000, 20_000, 300), KINDS)
    np.savez(path, counts=counts, step_names=["prefill" if kind == 0 else "decode" for kind in KINDS])
    return str(path)


def plan(capfd, loads, output, *options):
    required = ("--gpus", "8", "--budget", "1replicas/gpu", "--expert-bytes", "1MiB")
    return run(capfd, "plan", "--loads", loads, *required, "-o", str(output), *options)


@pytest.mark.parametrize(
    ("objective", "head", "better"),
    [("step-time", "step time (1 is perfect)", min), ("worst-workload", "worst workload", max)],
)
def test_the_table_shows_the_objective_of_every_arm(capfd, tmp_path, loads, objective, head, better):
    ran = plan(capfd, loads, tmp_path / "plan.json", "--objective", objective)
    assert ran.code == 0, ran.err
    assert head in ran.out
    estimate = read_plan(tmp_path / "plan.json").estimate
    assert estimate is not None
    by_planner = {row.planner: row.objective for row in estimate.planners}
    assert better(by_planner["craftc"], by_planner["placement"], by_planner["contiguous"]) == by_planner["craftc"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--objective", "speed"), "speed"),
        (
            ("--objective", "step-time", "--planner", "craft"),
            "for other objectives choose craftc",
        ),
        (("--objective", "step-time", "--shares", "lp"), "unequal shares support balancedness only"),
        (("--objective", "step-time", "--budget", "auto"), "its rule is about balancedness"),
    ],
)
def test_what_does_not_go_together_is_one_line(capfd, tmp_path, loads, options, message):
    ran = plan(capfd, loads, tmp_path / "plan.json", *options)
    assert ran.code == 2
    assert message in ran.error_line
    assert not (tmp_path / "plan.json").exists()
