from dataclasses import replace
from pathlib import Path

from craftc.plan_file import read_plan
from craftc.report.plan_report import comparison_table, layer_table, plan_summary
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
