"""What a plan is made to be good at: balancedness, step time, or the worst workload.

Axes: S steps, L layers, B placements, W workloads.
"""
