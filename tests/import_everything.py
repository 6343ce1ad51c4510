"""Import every module of craftc: `python import_everything.py` prints how many there are, and from which folder.

A script of its own, so that the wheel is checked with it in an environment that has nothing of this checkout.
"""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module


def import_everything() -> list[str]:
    """The names of all modules, each imported."""
    import craftc

    return [import_module(found.name).__name__ for found in pkgutil.walk_packages(craftc.__path__, "craftc.")]


if __name__ == "__main__":
    modules = import_everything()
    print(f"imported {len(modules)} modules from {sys.modules['craftc'].__path__[0]}")
