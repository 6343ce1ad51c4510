"""Cross-validation over steps: what a planner reaches on steps that it has not seen.

Steps are dealt into folds in turn. Each fold is left out once: the planner plans on the others and is judged on it.

Axes: S steps, L layers, C candidate replica counts.
"""
