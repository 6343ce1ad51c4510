"""What a model is run on: the inputs that it is traced with, and those that it is measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WorkloadInputs:
    """Example and calibration inputs of a model, each one a dict of keyword arguments of its forward."""

    example: dict[str, Any]
    """One call of the model."""
    calibration: Callable[[], Iterable[dict[str, Any]]] | None = None
    """Starts the stream of calibration batches; each batch is one step."""
