from dataclasses import replace
from pathlib import Path

from craftc.plans.file import read_plan
from craftc.report.plan_report import comparison_table, layer_table, plan_summary, validation_text
from tests.cli.command_line import PLAN


def test_the_plans_own_arm_is_marked():
    table = comparison_table(read_plan(Path(PLAN)))
    assert sum("this plan" in line for line in table.splitlines()) == 1
    assert "CRAFT: this plan" in table


def test_optimality_is_only_claimed_where_it_is_proven():
    plan = read_plan(Path(PLAN))
    assert "proven optimal for the benefit curves, gap 0.00%" in plan_summary(plan)
    stopped = replace(plan, provenance=replace(plan.provenance, status="feasible", gap=0.031))
    assert "feasible, gap 3.10%" in plan_summary(stopped)
    heuristic = replace(plan, provenance=replace(plan.provenance, status="heuristic", gap=None))
    assert plan_summary(heuristic).endswith("heuristic")


def test_without_estimate_the_layers_are_still_shown():
    plan = replace(read_plan(Path(PLAN)), estimate=None)
    assert "bound" not in layer_table(plan)
    assert "layers.1.experts" in layer_table(plan)


def test_groups_and_unequal_shares_are_said():
    plan = read_plan(Path(PLAN))
    assert "groups" not in plan_summary(plan)
    assert "unevenly" not in plan_summary(plan)
    first = plan.layers[0]
    shares = tuple(tuple(1.0 / first.copies_E[expert] for expert in gpu) for gpu in first.placement)
    other = replace(plan, groups=4, layers=(replace(first, shares=shares), *plan.layers[1:]))
    assert "each of 4 groups of experts within one node" in plan_summary(other)
    assert "unevenly in 1 of 2 layers" in plan_summary(other)
    assert "EPLB (hierarchical)" in comparison_table(other)


def test_seen_and_unseen_steps_stand_side_by_side():
    plan = read_plan(Path(PLAN))
    assert plan.estimate is not None
    checked = plan.estimate.cross_validation
    assert checked is not None
    lines = validation_text(plan).splitlines()
    assert lines[-1].split() == ["gained", "by", "replicas", f"{checked.gain_seen:.3f}", f"{checked.gain_unseen:.3f}"]
    assert validation_text(replace(plan, estimate=replace(plan.estimate, cross_validation=None))) == ""
    assert validation_text(replace(plan, estimate=None)) == ""


def test_step_time_stands_beside_balancedness_even_in_old_files_made_for_it():
    plan = read_plan(Path(PLAN))
    assert plan.estimate is not None
    old = tuple(replace(row, step_time=None, objective=1.25) for row in plan.estimate.planners)
    made_by = replace(plan.provenance, objective="step-time", tokens_per_slot=12.0)
    table = comparison_table(replace(plan, estimate=replace(plan.estimate, planners=old), provenance=made_by))
    assert "step time" in table.splitlines()[0]
    assert table.count("1.250") == len(old)
    assert "1.250" not in comparison_table(replace(plan, estimate=replace(plan.estimate, planners=old)))
    assert "made for step time; reading the weights of one expert takes as long as 12 tokens" in plan_summary(
        replace(plan, provenance=made_by)
    )
