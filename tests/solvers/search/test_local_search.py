import builtins
import os
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest

from craftc.solvers.placement.dealt import dealt_placements
from craftc.solvers.replay import placements_of, replay_batch
from craftc.solvers.search import compiled as compiling
from craftc.solvers.search import local_search
from craftc.solvers.search.descent import descend_rows
from craftc.solvers.search.effort import EFFORTS, SearchEffort, SearchStage
from craftc.solvers.search.local_search import search_stages, searcher
from craftc.solvers.search.search_loads import Goal
from craftc.solvers.search.step_compression import compress_steps
from craftc.solvers.verifier import PlacedLayer, violations
from tests.solvers.search.layers import random_counts

EFFORT = SearchEffort((SearchStage(1e6, 20, 40, 0.1), SearchStage(1e7, 50, 100, 0.1)))


def setting(seed=0, layers=3, experts=24, gpus=8, counts=(0, 3, 8, 9)):
    counts_SLE = np.concatenate([random_counts(seed + layer, 6, experts) for layer in range(layers)], axis=1)
    layer_B, replicas_B = np.repeat(np.arange(layers), len(counts)), np.tile(counts, layers)
    return counts_SLE, layer_B, replicas_B, dealt_placements(counts_SLE.mean(axis=0)[layer_B], replicas_B, gpus)


def searched(counts_SLE, layer_B, replicas_B, seed=0, effort=EFFORT, gpus=8):
    steps = compress_steps(counts_SLE, gpus, 16)
    return search_stages(steps, layer_B, replicas_B, gpus, effort, seed, Goal())[-1]


@pytest.fixture
def without_numba(monkeypatch):
    """Importing numba fails, as on a machine without it."""
    imported = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith(("numba", "craftc.solvers.search.annealing")):
            raise ImportError("no numba here")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    searcher.cache_clear()
    yield
    searcher.cache_clear()


def test_straggles_less_and_stays_sound():
    counts_SLE, layer_B, replicas_B, start_BGC = setting()
    found_BGC = searched(counts_SLE, layer_B, replicas_B)
    start_B, found_B = (replay_batch(counts_SLE, layer_B, each) for each in (start_BGC, found_BGC))
    assert (found_B > start_B + 0.01).all()
    for row, placement in enumerate(placements_of(found_BGC)):
        assert violations([PlacedLayer("layer", 24, 1, int(replicas_B[row]), placement)], 8) == ()


def test_a_problem_does_not_depend_on_its_batch():
    counts_SLE, layer_B, replicas_B, _ = setting(1)
    together_BGC = searched(counts_SLE, layer_B, replicas_B, 5)
    for row in (0, 3, 7, 10):
        alone_BGC = searched(counts_SLE, layer_B[[row]], replicas_B[[row]], 5)
        assert placements_of(alone_BGC) == placements_of(together_BGC[[row]])


@pytest.mark.parametrize("processors", [1, 2, 7])
def test_nor_on_the_number_of_threads(monkeypatch, processors):
    counts_SLE, layer_B, replicas_B, _ = setting(2)
    expected_BGC = searched(counts_SLE, layer_B, replicas_B)
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert (searched(counts_SLE, layer_B, replicas_B) == expected_BGC).all()


def test_same_seed_same_placement():
    counts_SLE, layer_B, replicas_B, _ = setting(2)
    first, again, other = (searched(counts_SLE, layer_B, replicas_B, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_stages_go_on_from_each_other():
    counts_SLE, layer_B, replicas_B, _ = setting(3)
    steps = compress_steps(counts_SLE, 8, 16)
    stages = search_stages(steps, layer_B, replicas_B, 8, EFFORT, 0, Goal())
    first = search_stages(steps, layer_B, replicas_B, 8, SearchEffort(EFFORT.stages[:1]), 0, Goal())
    assert len(stages) == 2
    assert (stages[0] == first[0]).all()
    assert (stages[1] != stages[0]).any()


@pytest.mark.parametrize(
    ("experts", "gpus", "counts"), [(6, 1, (0,)), (1, 3, (0, 2)), (5, 8, (0, 1, 11)), (4, 2, (4,)), (3, 40, (0, 50))]
)
def test_odd_shapes(experts, gpus, counts):
    counts_SLE, layer_B, replicas_B, _ = setting(4, 2, experts, gpus, counts)
    found_BGC = searched(counts_SLE, layer_B, replicas_B, effort=EFFORTS["low"], gpus=gpus)
    for row, placement in enumerate(placements_of(found_BGC)):
        assert violations([PlacedLayer("layer", experts, 1, int(replicas_B[row]), placement)], gpus) == ()


@pytest.mark.usefixtures("without_numba")
def test_without_numba_numpy_searches_and_a_warning_says_so_once():
    counts_SLE, layer_B, replicas_B, start_BGC = setting(5)
    with pytest.warns(UserWarning, match=r"numba cannot be used \(no numba here\): placements are searched with numpy"):
        found_BGC = searched(counts_SLE, layer_B, replicas_B)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (searched(counts_SLE, layer_B, replicas_B) == found_BGC).all()
    assert searcher() is descend_rows
    start_B, found_B = (replay_batch(counts_SLE, layer_B, each) for each in (start_BGC, found_BGC))
    assert (found_B > start_B + 0.01).all()


def test_the_compiled_search_is_used_where_it_can_be():
    assert searcher() is not descend_rows
    assert local_search.searcher.cache_info().currsize == 1


def test_numba_is_imported_only_when_a_search_runs():
    script = "import sys, craftc.passes.pipelines; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


def test_where_no_cache_can_be_written_the_search_is_compiled_all_the_same(monkeypatch):
    def refuses_to_cache(**options):
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: ("compiled", function, options)

    monkeypatch.setattr(compiling, "numba", types.SimpleNamespace(njit=lambda **options: refuses_to_cache(**options)))
    assert compiling.compiled(len) == ("compiled", len, {"nogil": True, "error_model": "numpy"})
    monkeypatch.setattr(compiling, "numba", None)
    assert compiling.compiled(len) is len


def test_without_numba_on_the_machine_a_plan_is_made_and_says_so():
    script = """if True:
        import sys, warnings
        sys.modules["numba"] = None  # importing it fails
        import numpy as np, craftc
        counts = np.random.default_rng(0).poisson(np.arange(1, 17), (2, 2, 16))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            loads = craftc.LoadProfile.from_counts(counts)
            plan = craftc.plan(loads, craftc.Topology(4), "2replicas/gpu", expert_bytes=1)
        assert [str(each.message)[:20] for each in seen] == ["numba cannot be used"], seen
        rows = {row.planner: row.balancedness for row in plan.estimate.planners}
        assert rows["craftc"] > rows["craft"]
    """
    ran = subprocess.run([sys.executable, "-c", script], timeout=100, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
