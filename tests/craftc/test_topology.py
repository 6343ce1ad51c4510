import pytest

from craftc.errors import BadInput
from craftc.topology import Topology


def test_gpus_are_numbered_node_by_node():
    assert Topology(6, 3).node_of_gpu_G == (0, 0, 1, 1, 2, 2)


@pytest.mark.parametrize(
    ("gpus", "nodes", "problem"),
    [
        (0, 1, "at least 1"),
        (-4, 1, "at least 1"),
        (8, 0, "at least 1"),
        (10, 4, "evenly over 4 nodes"),
        (2, 4, "evenly"),
        (65_537, 1, "at most 65,536 GPUs"),
    ],
)
def test_impossible_topologies_are_refused(gpus: int, nodes: int, problem: str):
    with pytest.raises(BadInput, match=problem):
        Topology(gpus, nodes)
