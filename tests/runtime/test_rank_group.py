from __future__ import annotations

import copy
import pickle

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from craftc.errors import BadInput
from craftc.runtime.rank_group import rank_group


def test_a_process_group_and_a_mesh_dimension_are_groups(one_rank):
    mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "ep"))
    for group in (one_rank, rank_group(mesh["ep"])):
        assert (group.rank, group.size) == (0, 1)


def test_a_whole_mesh_is_refused(one_rank):
    mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "ep"))
    with pytest.raises(BadInput, match=r"the device mesh has 2 dimensions; give one of them, such as mesh\['ep'\]"):
        rank_group(mesh)


def test_anything_else_is_refused(one_rank):
    with pytest.raises(BadInput, match="must be a ProcessGroup or a one-dimensional DeviceMesh, got str"):
        rank_group("world")  # type: ignore[arg-type]


def test_without_torch_distributed_there_is_no_group():
    with pytest.raises(BadInput, match="no process group: start with torchrun"):
        rank_group(object())  # type: ignore[arg-type]


def test_a_deep_copy_keeps_the_group(one_rank):
    assert copy.deepcopy(one_rank) is one_rank


def test_an_unpickled_group_finds_the_world_again(one_rank):
    assert pickle.loads(pickle.dumps(one_rank)).process_group is dist.group.WORLD


def test_an_unpickled_group_without_its_ranks_says_what_to_do(one_rank):
    again = pickle.loads(pickle.dumps(one_rank))
    again._ranks = (0, 1)
    with pytest.raises(BadInput, match=r"unpickled from a run on ranks \[0, 1\]"):
        _ = again.process_group
