"""Balancedness of every planner on recorded and synthetic traces, held out and on the plan's own steps, with a bound.

Run from the repository root: `python -m benchmarks.quality [TRACE.npz ...] [--gpus G] [--nodes N] [--sum-steps K]
[--evenly N] [--png FILE]`. Without a trace: the traces in `../shared/traces`, where present, and a synthetic one.
"""
