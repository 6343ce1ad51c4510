from __future__ import annotations

from tests.runtime.one_rank import one_rank

__all__ = ["one_rank"]
