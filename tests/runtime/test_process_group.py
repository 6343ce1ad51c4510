from __future__ import annotations

import pytest
import torch.distributed as dist

from craftc.errors import BadInput
from craftc.runtime.process_group import rank_process_group


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
