import json
from pathlib import Path

import numpy as np
import pytest

from craftc.plans.file import read_plan
from tests.cli.command_line import LOADS, MODEL, Ran, run
from tests.places import TRACES

NAN = np.ones((2, 2, 8))
NAN[0, 0, 0] = np.nan
ZERO_LAYER = np.ones((2, 2, 8), dtype=int)
ZERO_LAYER[:, 1] = 0


def plan(
    capfd: pytest.CaptureFixture[str],
    output: Path,
    *more: str,
    loads: str = LOADS,
    gpus: str = "4",
    nodes: str = "2",
    budget: str = "1replica/gpu",
    size: str = "64B",
) -> Ran:
    options = ["--loads", loads, "--gpus", gpus, "--nodes", nodes, "--budget", budget, "-o", str(output)]
    return run(capfd, "plan", *options, *(["--expert-bytes", size] if size else []), *more)


def test_wrong_options_are_refused_before_the_loads_are_read(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    missing = str(tmp_path / "none.npz")
    assert "84 bananas" in plan(capfd, tmp_path / "plan.json", loads=missing, size="84 bananas").error_line
    assert "banana" in plan(capfd, tmp_path / "plan.json", loads=missing, budget="banana").error_line
    assert "none.npz" in plan(capfd, tmp_path / "plan.json", loads=missing).error_line


def test_without_a_model(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    ran = plan(capfd, tmp_path / "plan.json")
    assert ran.code == 0
    made = read_plan(tmp_path / "plan.json")
    assert made.budget.bytes == 4 * 64
    assert made.provenance.model is None
    assert made.provenance.status == "optimal"
    assert f"wrote {tmp_path / 'plan.json'}" in ran.out
    for row in ("contiguous", "placement only", "EPLB (uniform)", "CRAFT", "craftc: this plan", "upper bound"):
        assert f"\n{row}" in ran.out or f"{row}  " in ran.out


def test_json_is_one_document_with_the_plan(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    ran = plan(capfd, tmp_path / "plan.json", "--format", "json")
    document = json.loads(ran.out)
    assert document["plan"] == json.loads((tmp_path / "plan.json").read_text())
    assert document["files"] == [str(tmp_path / "plan.json")]


def test_same_inputs_same_bytes(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    for name in ("a.json", "b.json"):
        plan(capfd, tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_with_a_model_sizes_and_names_are_its_own(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    assert plan(capfd, tmp_path / "plan.json", MODEL, size="").code == 0
    made = read_plan(tmp_path / "plan.json")
    assert [layer.name for layer in made.layers] == ["layers.0.experts", "layers.1.experts"]
    assert {layer.expert_bytes for layer in made.layers} == {256}
    assert made.provenance.model is not None


@pytest.mark.parametrize("planner", ["craft", "eplb", "craftc"])
def test_every_planner_can_be_chosen(capfd: pytest.CaptureFixture[str], tmp_path: Path, planner: str):
    ran = plan(capfd, tmp_path / "plan.json", "--planner", planner, budget="50%")
    assert ran.code == 0, ran.err
    assert read_plan(tmp_path / "plan.json").provenance.planner == planner


def test_cbc_can_be_chosen(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    ran = plan(capfd, tmp_path / "plan.json", "--solver", "cbc", "--time-limit", "20")
    assert ran.code == 0
    assert read_plan(tmp_path / "plan.json").provenance.solver.startswith("cbc")


@pytest.mark.skipif(not TRACES.is_dir(), reason="needs ../shared/traces")
def test_a_recorded_trace(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    trace = str(TRACES / "mixtral-8x7b-mmlu.npz")
    assert plan(capfd, tmp_path / "plan.json", loads=trace, gpus="4", budget="8replicas/gpu", size="336MiB").code == 0


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("8G", "ambiguous"),
        ("-1GiB", "negative"),
        ("0.0.1GiB", "cannot be read"),
        ("nan", "cannot be read"),
        ("9000000TiB", "at most 8 EiB"),
        ("999replicas/gpu", "there is room for 48"),
        ("9999%", "at most 300% more"),
        ("8replicas", "write 8replicas/gpu"),
        ("64", "unit must be one of"),
    ],
)
def test_a_wrong_budget(capfd: pytest.CaptureFixture[str], tmp_path: Path, budget: str, message: str):
    ran = plan(capfd, tmp_path / "plan.json", budget=budget)
    assert ran.code == 2
    assert message in ran.error_line
    assert list(tmp_path.iterdir()) == []


def test_a_budget_that_buys_nothing_is_the_answer_no(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    ran = plan(capfd, tmp_path / "plan.json", budget="63B")
    assert ran.code == 1
    assert "1 bytes less than one replica" in ran.error_line
    assert "give at least 64B" in ran.error_line


@pytest.mark.parametrize(
    ("gpus", "nodes", "code", "message"),
    [
        ("0", "1", 2, "gpus must be at least 1, got 0"),
        ("-4", "1", 2, "gpus must be at least 1, got -4"),
        ("4", "0", 2, "nodes must be at least 1"),
        ("4", "3", 2, "4 GPUs cannot be spread evenly over 3 nodes"),
        ("64", "1", 1, "64 GPUs, but 16 experts in 2 layers: 48 GPUs would hold none"),
        ("999999999", "1", 2, "at most 65,536 GPUs, got 999,999,999"),
    ],
)
def test_a_wrong_topology(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, gpus: str, nodes: str, code: int, message: str
):
    ran = plan(capfd, tmp_path / "plan.json", gpus=gpus, nodes=nodes, budget="0B")
    assert ran.code == code
    assert message in ran.error_line


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (NAN, "is not finite"),
        (-np.ones((2, 2, 8)), "is negative"),
        (ZERO_LAYER, "has no tokens"),
        (np.ones((2, 8)), "must have 3 axes"),
        (np.ones((0, 2, 8)), "is empty"),
        (np.array([[1, 2], None], dtype=object), "holds Python objects"),
        (np.array([[["x"]]]), "must be numbers"),
    ],
)
def test_wrong_loads(capfd: pytest.CaptureFixture[str], tmp_path: Path, counts: np.ndarray, message: str):
    np.savez(tmp_path / "bad.npz", counts=counts)
    ran = plan(capfd, tmp_path / "plan.json", loads=str(tmp_path / "bad.npz"))
    assert ran.code == 2
    assert message in ran.error_line
    assert str(tmp_path / "bad.npz") in ran.error_line


def test_loads_that_are_not_there_or_not_loads(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    assert "No such file" in plan(capfd, tmp_path / "plan.json", loads=str(tmp_path / "none.npz")).error_line
    (tmp_path / "text").write_text("hello")
    assert plan(capfd, tmp_path / "plan.json", loads=str(tmp_path / "text")).error_line
    np.savez(tmp_path / "other.npz", loads=np.ones(3))
    assert "no array named counts" in plan(capfd, tmp_path / "p.json", loads=str(tmp_path / "other.npz")).error_line
    Path(tmp_path / "cut.npz").write_bytes(Path(LOADS).read_bytes()[:200])
    assert plan(capfd, tmp_path / "plan.json", loads=str(tmp_path / "cut.npz")).code == 2


def test_loads_of_another_model(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    np.savez(tmp_path / "other.npz", counts=np.ones((2, 5, 8), dtype=int))
    ran = plan(capfd, tmp_path / "plan.json", MODEL, size="", loads=str(tmp_path / "other.npz"))
    assert "has 5 layers, the model has 2 MoE layers" in ran.error_line


@pytest.mark.parametrize(
    ("size", "message"),
    [("", "give --expert-bytes"), ("84M", "ambiguous"), ("0B", "at least 1 byte"), ("much", "expected a number")],
)
def test_a_wrong_expert_size(capfd: pytest.CaptureFixture[str], tmp_path: Path, size: str, message: str):
    ran = plan(capfd, tmp_path / "plan.json", size=size)
    assert ran.code == 2
    assert message in ran.error_line


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--planner", "magic", "planner 'magic' is unknown; choose one of craft"),
        ("--time-limit", "0", "time limit must be above 0"),
        ("--time-limit", "nan", "time limit must be above 0"),
    ],
)
def test_wrong_options(capfd: pytest.CaptureFixture[str], tmp_path: Path, option: str, value: str, message: str):
    ran = plan(capfd, tmp_path / "plan.json", option, value)
    assert ran.code == 2
    assert message in ran.error_line


def test_an_output_that_cannot_be_written_is_refused_before_the_work(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    assert "there is no folder" in plan(capfd, tmp_path / "none" / "plan.json").error_line
    assert "is a folder" in plan(capfd, tmp_path).error_line


def test_budget_auto_shows_and_draws_the_curve(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    curve = tmp_path / "curve.png"
    ran = plan(capfd, tmp_path / "plan.json", "--curve", str(curve), budget="auto")
    assert ran.code == 0, ran.err
    assert "<- chosen" in ran.out
    assert "budget auto: the largest number of replicas per GPU" in ran.out
    assert curve.read_bytes().startswith(b"\x89PNG")
    made = read_plan(tmp_path / "plan.json")
    assert made.budget.requested == "auto"
    ran = plan(capfd, tmp_path / "again.json", "--format", "json", budget="auto")
    document = json.loads(ran.out)["budget_curve"]
    assert document["points"][document["chosen"]]["bytes_per_gpu"] * 4 == made.budget.bytes


def test_unequal_shares_are_in_the_plan(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    rng = np.random.default_rng(0)
    counts = (rng.lognormal(0, 1.2, (1, 2, 8)) * rng.lognormal(0, 0.4, (24, 2, 8)) * 500).astype(int)
    np.savez(tmp_path / "loads.npz", counts=counts)
    loads = str(tmp_path / "loads.npz")
    assert plan(capfd, tmp_path / "even.json", loads=loads).code == 0
    assert plan(capfd, tmp_path / "lp.json", "--shares", "lp", loads=loads).code == 0
    even, unequal = read_plan(tmp_path / "even.json"), read_plan(tmp_path / "lp.json")
    assert all(layer.shares is None for layer in even.layers)
    assert any(layer.shares is not None for layer in unequal.layers)
    assert even.estimate is not None
    assert unequal.estimate is not None
    assert unequal.estimate.balancedness > even.estimate.balancedness


def test_groups_stay_on_nodes_and_the_plan_file_says_so(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    ran = plan(capfd, tmp_path / "plan.json", "--groups", "4")
    assert ran.code == 0, ran.err
    made = read_plan(tmp_path / "plan.json")
    assert made.groups == 4
    for layer in made.layers:
        for group in range(4):
            assert (
                len({gpu // 2 for gpu, held in enumerate(layer.placement) if {2 * group, 2 * group + 1} & {*held}}) == 1
            )
    document = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(document | {"groups": 1}))
    assert read_plan(tmp_path / "other.json").groups == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--groups", "3"), "8 experts do not divide into 3 groups"),
        (("--groups", "1", "--planner", "nope"), "is unknown"),
        (("--groups", "4", "--planner", "craft"), "does not keep expert groups"),
    ],
)
def test_wrong_groups(capfd: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...], message: str):
    ran = plan(capfd, tmp_path / "plan.json", *options)
    assert ran.code == 2
    assert message in ran.error_line
