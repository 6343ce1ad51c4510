"""The ranks that share a model's experts: a process group that survives copying and pickling of modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist

from craftc.errors import BadInput

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


class RankGroup:
    """A process group that deep copies share; it is pickled as its list of ranks and looked up again when loaded."""

    def __init__(self, process_group: ProcessGroup) -> None:
        self._process_group: ProcessGroup | None = process_group
        self._ranks = tuple(dist.get_process_group_ranks(process_group))

    @property
    def process_group(self) -> ProcessGroup:
        """The group. Raises BadInput if the module was unpickled and there is no process group of the same ranks."""
        if self._process_group is None:
            self._process_group = _world_of(self._ranks)
        return self._process_group

    @property
    def rank(self) -> int:
        """Rank of this process within the group, which is its GPU number in the plan."""
        return dist.get_rank(self.process_group)

    @property
    def size(self) -> int:
        """Ranks in the group, W."""
        return len(self._ranks)

    def __deepcopy__(self, memo: object) -> RankGroup:
        return self

    def __getstate__(self) -> dict[str, object]:
        return {"_process_group": None, "_ranks": self._ranks}


def rank_group(group: ProcessGroup | DeviceMesh) -> RankGroup:
    """The group of `group`; a DeviceMesh must have one dimension, such as `mesh["ep"]`. Raises BadInput otherwise."""
    if not dist.is_available() or not dist.is_initialized():
        raise BadInput("no process group: start with torchrun and call torch.distributed.init_process_group() first")
    dimensions = getattr(group, "ndim", 1)
    if dimensions != 1:
        raise BadInput(f"group: the device mesh has {dimensions} dimensions; give one of them, such as mesh['ep']")
    process_group = group.get_group() if hasattr(group, "get_group") else group
    if not isinstance(process_group, dist.ProcessGroup):
        raise BadInput(f"group must be a ProcessGroup or a one-dimensional DeviceMesh, got {type(group).__name__}")
    return RankGroup(process_group)


def _world_of(ranks: tuple[int, ...]) -> ProcessGroup:
    if dist.is_initialized() and dist.group.WORLD is not None:
        world = dist.group.WORLD
        if tuple(dist.get_process_group_ranks(world)) == ranks:
            return world
    raise BadInput(
        f"this module was unpickled from a run on ranks {list(ranks)}: start torch.distributed with these ranks before "
        f"it is called, or prepare the model again with craftc.prepare(model, plan, group=...)"
    )
