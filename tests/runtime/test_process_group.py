from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from craftc.errors import BadInput
from craftc.runtime.process_group import rank_device, rank_process_group, why_gpus_are_idle


def test_a_process_that_torchrun_did_not_start_is_told_so(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(BadInput, match="no RANK in the environment: start with torchrun"), rank_process_group():
        pass


def test_the_group_ends_with_the_block_also_after_an_error(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ZeroDivisionError), rank_process_group(timeout_s=5) as group:
        raise ZeroDivisionError if (group.rank, group.size) == (0, 1) else AssertionError
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("gpus", "environment", "device", "idle"),
    [
        (0, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, "cpu", None),
        (8, {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}, "cuda:1", None),
        (1, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, "cpu", "1 GPUs for 2 ranks"),
        (1, {"RANK": "1", "WORLD_SIZE": "2"}, "cpu", "1 GPUs for 2 ranks"),
        (2, {"RANK": "1", "WORLD_SIZE": "2"}, "cuda:1", None),
        (8, {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, "cpu", "8 GPUs for 16 ranks"),
        (1, {}, "cuda:0", None),
    ],
)
def test_a_rank_computes_on_a_gpu_of_its_own_or_on_the_cpu(monkeypatch, gpus, environment, device, idle):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    assert str(rank_device()) == device
    reason = why_gpus_are_idle()
    assert reason is None if idle is None else reason is not None and idle in reason
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    assert str(rank_device()) == "cpu"
    assert why_gpus_are_idle() == ("torch is built without NCCL" if gpus else None)
