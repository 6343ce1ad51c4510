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


def test_the_table_shows_the_worst_workload_of_every_planner(capfd, tmp_path, loads):
    ran = plan(capfd, loads, tmp_path / "plan.json", "--objective", "worst-workload")
    assert ran.code == 0, ran.err
    assert "worst workload" in ran.out
    estimate = read_plan(tmp_path / "plan.json").estimate
    assert estimate is not None
    by_planner = {row.planner: row.objective or 0.0 for row in estimate.planners}
    assert max(by_planner["craftc"], by_planner["placement"], by_planner["contiguous"]) == by_planner["craftc"]


def test_every_table_shows_step_time_and_a_plan_made_for_it_has_less(capfd, tmp_path, loads):
    reached = {}
    for objective in ("balancedness", "step-time"):
        ran = plan(capfd, loads, tmp_path / "plan.json", "--objective", objective)
        assert ran.code == 0, ran.err
        assert "step time" in ran.out
        estimate = read_plan(tmp_path / "plan.json").estimate
        assert estimate is not None
        by_planner = {row.planner: row.step_time or 0.0 for row in estimate.planners}
        assert 1 <= by_planner["craftc"] < min(by_planner["placement"], by_planner["contiguous"])
        assert {row.objective for row in estimate.planners} == {None}
        reached[objective] = by_planner["craftc"]
    assert reached["step-time"] < reached["balancedness"]
    assert "made for step time" in ran.out


def test_a_slot_that_costs_more_than_its_tokens_is_not_bought(capfd, tmp_path, loads):
    output = tmp_path / "plan.json"
    for tokens, bought in (("0", True), ("100000", False)):
        ran = plan(capfd, loads, output, "--objective", "step-time", "--tokens-per-slot", tokens)
        assert ran.code == 0, ran.err
        made = read_plan(output)
        assert made.provenance.tokens_per_slot == float(tokens)
        assert (made.replicas > 0) == bought
        assert ("takes as long as 100000 tokens" in ran.out) == (tokens != "0")


OPTIONS = {
    "nothing else": (),
    "auto": ("--budget", "auto"),
    "shares": ("--shares", "lp"),
    "from": ("--from", "{old}", "--max-move", "2MiB"),
    "groups": ("--groups", "4", "--nodes", "2"),
    "validate": ("--no-cross-validate",),
    "tokens per slot": ("--tokens-per-slot", "50"),
    "everything": (
        "--budget", "auto", "--shares", "lp", "--from", "{old}", "--groups", "4", "--nodes", "2", "--no-cross-validate",
        "--tokens-per-slot", "5",
    ),
}  # fmt: skip
REFUSED = {
    ("worst-workload", "auto"): "about balancedness or step time, not worst-workload",
    ("worst-workload", "shares"): "unequal shares support balancedness and step-time only",
    ("worst-workload", "from"): "replanning and unequal shares support",
    ("worst-workload", "groups"): "expert groups cannot be combined",
    ("worst-workload", "tokens per slot"): "count in step time only",
    ("worst-workload", "everything"): "replanning and unequal shares support",
    ("balancedness", "tokens per slot"): "count in step time only",
    ("balancedness", "everything"): "count in step time only",
}
"""What does not go together, and the line that says so; everything else is planned."""


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("objective", ["balancedness", "step-time", "worst-workload"])
def test_what_goes_together_is_planned_and_the_rest_is_one_line(capfd, tmp_path, loads, objective, option):
    old, output = str(tmp_path / "old.json"), tmp_path / "plan.json"
    nodes = ("--nodes", "2", "--groups", "4") if option == "everything" else ()
    if "--from" in OPTIONS[option]:
        assert plan(capfd, loads, old, "--effort", "low", *nodes).code == 0
    given = [part.format(old=old) for part in OPTIONS[option]]
    ran = plan(capfd, loads, output, "--effort", "low", "--objective", objective, *given)
    if (objective, option) in REFUSED:
        assert ran.code == 2
        assert REFUSED[objective, option] in ran.error_line
        assert not output.exists()
        return
    assert ran.code == 0, ran.err
    assert read_plan(output).provenance.objective == objective


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--objective", "speed"), "speed"),
        (
            ("--objective", "step-time", "--planner", "craft"),
            "for other objectives choose craftc",
        ),
        (("--objective", "step-time", "--tokens-per-slot", "-1"), "at least 0, got -1"),
        (("--objective", "step-time", "--tokens-per-slot", "nan"), "at least 0, got nan"),
    ],
)
def test_what_does_not_go_together_is_one_line(capfd, tmp_path, loads, options, message):
    ran = plan(capfd, loads, tmp_path / "plan.json", *options)
    assert ran.code == 2
    assert message in ran.error_line
    assert not (tmp_path / "plan.json").exists()
