import numpy as np

from craftc.solvers.search.search_loads import LANES, loads_of_layer, loads_of_layers, squarings_for
from craftc.solvers.search.step_compression import compress_steps
from tests.solvers.search.layers import random_counts


def test_steps_are_padded_and_an_empty_slot_weighs_nothing():
    counts_SLE = random_counts(0, 5, 7)
    counts_SLE[2] = 0
    steps = compress_steps(counts_SLE, 4, 16)
    loads = loads_of_layer(loads_of_layers(steps), 0, 1)
    assert loads.load_XK.shape == (8, LANES)
    assert (loads.load_XK[:7, :5] == steps.load_LKE[0].T).all()
    assert not loads.load_XK[7].any()
    assert not loads.load_XK[:, 5:].any()
    assert loads.busy_K[: loads.busy].tolist() == [0, 1, 3, 4], "the step without tokens cannot straggle"


def test_the_floor_counts_every_slot_of_the_fullest_gpu():
    steps = compress_steps(random_counts(0, 3, 6), 2, 16, floor_SL=np.full((3, 1), 0.5))
    assert loads_of_layer(loads_of_layers(steps), 0, 4).floor_K[:3].tolist() == [2.0, 2.0, 2.0]


def test_the_power_grows_with_the_number_of_gpus():
    powers = [squarings_for(gpus) for gpus in (1, 2, 8, 64, 1024, 65_536)]
    assert powers == sorted(powers)
    assert (powers[0], powers[-1]) == (3, 5)
