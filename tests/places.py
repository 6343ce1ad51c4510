"""Where the repository is, and what lies beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository's root."""
TRACES = ROOT.parent / "shared" / "traces"
"""Recorded loads of real models; tests that need them are skipped where the folder is missing."""
