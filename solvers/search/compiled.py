"""Compiling a function with numba, if it is there; the only file that imports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

try:
    import numba
except ImportError:
    numba = None

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """`function`, compiled at its first call and kept in a cache folder: beside the source, or else the user's.

    Where neither folder can be written, every process compiles anew. Without numba it stays as it is.
    """
    if numba is None:
        return function
    options = {"nogil": True, "error_model": "numpy"}
    try:
        cached: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # "no locator available": numba found no folder for its cache
        cached = numba.njit(**options)(function)
    return cached
