"""What a server is asked to do: the requests, and how long they may take."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from craftc.errors import BadInput

Phase = Literal["mixed", "prefill", "decode"]
"""What runs on the server: whole requests, or one half of them where prefill and decode have servers of their own."""
_LONGEST = 2**27
"""Tokens of the longest request that is believed."""


@dataclass(frozen=True)
class Workload:
    """Requests of one length, and the limits on their latency."""

    input: int = 4096
    """Tokens of a prompt, at least 1."""
    output: int = 256
    """Tokens that are generated for a request, at least 1."""
    chunk: int = 4096
    """Tokens of a prompt that a data-parallel rank prefills in one step at most, at least 1. A rank prefills one
    request at a time, in even chunks."""
    phase: Phase = "mixed"
    """What runs on the server."""
    batch: int | None = None
    """For decode: requests in flight per GPU, at least 1; None is as many as the KV cache holds."""
    ttft_limit_s: float | None = None
    """Longest mean time to the first token, in seconds, above 0; None is four times what it takes without waiting and
    without replicas."""
    itl_limit_s: float | None = None
    """Longest mean time between tokens of a request, in seconds, above 0; None is no limit."""

    def __post_init__(self) -> None:
        for name in ("input", "output", "chunk"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= _LONGEST:
                raise BadInput(f"workload: {name} must be a number of tokens in 1..{_LONGEST}, got {value!r}")
        if self.phase not in get_args(Phase):
            raise BadInput(f"workload: phase {self.phase!r} is unknown; choose {', '.join(get_args(Phase))}")
        if self.batch is not None and self.phase != "decode":
            raise BadInput(f"workload: a batch of requests per GPU belongs to phase decode, not {self.phase}")
        if self.batch is not None and (type(self.batch) is not int or self.batch < 1):
            raise BadInput(f"workload: batch must be at least 1 request per GPU, got {self.batch!r}")
        for name in ("ttft_limit_s", "itl_limit_s"):
            limit = getattr(self, name)
            if limit is not None and not _is_seconds(limit):
                raise BadInput(f"workload: {name} must be above 0 seconds, got {limit!r}")
        for phase, name in (("decode", "ttft_limit_s"), ("prefill", "itl_limit_s")):
            if self.phase == phase and getattr(self, name) is not None:
                raise BadInput(f"workload: {name} does not belong to phase {phase}, which has no such time: drop it")

    @property
    def chunks(self) -> int:
        """Steps in which a request is prefilled."""
        return -(-self.input // self.chunk)

    @property
    def chunk_tokens(self) -> float:
        """Tokens that a rank prefills in a step."""
        return self.input / self.chunks

    @property
    def stated(self) -> dict[str, object]:
        """Every field by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
