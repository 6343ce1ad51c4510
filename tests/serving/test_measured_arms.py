"""Which arm a row of measurements is of."""

from __future__ import annotations

from pathlib import Path

import pytest

from craftc.errors import BadInput
from craftc.plans.file import write_plan
from craftc.serving.arm import Arm, worth
from craftc.serving.arms import baseline_arms, planned_arms
from craftc.serving.held_out import HeldOut
from craftc.serving.measured_arms import measured_arms
from craftc.serving.measurements import Measurement
from craftc.serving.simulate import simulate
from craftc.topology import Topology
from tests.serving.small_server import LAYERS, TOPOLOGY, plan_of, server_of, skewed_loads

SERVER = server_of()
SPLIT = HeldOut(SERVER.matched(skewed_loads(1.0)), SERVER.matched(skewed_loads(1.0, steps=5)))


def arms_of(*rows: tuple[str, float]) -> dict[tuple[str, float], Arm]:
    measurements = [Measurement("m.csv", line, *row, throughput=1.0) for line, row in enumerate(rows, start=2)]
    return measured_arms(measurements, SPLIT, SERVER, TOPOLOGY)


def test_baselines_and_planners_are_planned_from_the_loads():
    none, eplb = baseline_arms(SPLIT, SERVER, TOPOLOGY)
    arms = arms_of(("none", 0.0), ("eplb", LAYERS), ("craft", 2.0), ("craft", 1.0), ("craft", 2.0))
    assert list(arms) == [("none", 0.0), ("eplb", LAYERS), ("craft", 2.0), ("craft", 1.0)]
    planned = planned_arms("craft", [1, 2], SPLIT, SERVER, TOPOLOGY)
    expected = [none, eplb, planned[2], planned[1]]
    assert [worth(arm) for arm in arms.values()] == [worth(arm) for arm in expected]


def test_a_plan_is_read_and_judged_on_what_was_not_planned_from(tmp_path: Path):
    plan = plan_of("2 replicas/gpu", skewed_loads(1.0))
    path = str(tmp_path / "plan.json")
    write_plan(plan, path)
    arm = arms_of((path, 2.0))[path, 2.0]
    assert worth(arm) == simulate(plan, SPLIT.judged, SERVER)
    with pytest.raises(BadInput, match=r"m\.csv: line 2: .*plan\.json has 2 replicas per GPU, but .* is 8"):
        arms_of((path, 8.0))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("crafty", 2.0), "line 2: 'crafty' is not none, a planner .*craftc.* or the file of a plan"),
        (("craft", 1.5), "planner craft is given whole replicas per GPU, not 1.5: name the file of the plan"),
        (("craft", 1e6), "planner craft cannot place 1000000 replicas per GPU on 16 GPUs"),
        (("eplb", 1.0), "planner eplb cannot place 1 replicas per GPU on 16 GPUs"),
    ],
)
def test_rows_of_nothing_that_can_be_planned_are_refused(row: tuple[str, float], message: str):
    with pytest.raises(BadInput, match=message):
        arms_of(row)


def test_plans_for_other_gpus_are_refused(tmp_path: Path):
    path = str(tmp_path / "plan.json")
    write_plan(plan_of("0B", skewed_loads(1.0), topology=Topology(8)), path)
    with pytest.raises(BadInput, match="is for 8 GPUs on 1 node, not 16 GPUs on 2 nodes"):
        arms_of((path, 0.0))
