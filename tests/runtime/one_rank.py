"""A process group of this process alone, for tests that need a group but no other ranks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from craftc.runtime.process_group import end_process_group
from craftc.runtime.rank_group import RankGroup, rank_group


@pytest.fixture
def one_rank() -> Iterator[RankGroup]:
    """Torn down like every process group, or pytest itself would abort at its end."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert dist.group.WORLD is not None
        yield rank_group(dist.group.WORLD)
    finally:
        end_process_group()
