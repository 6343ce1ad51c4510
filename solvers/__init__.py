"""Numbers in, numbers out: replication, placement, allocation, replay, baselines, bounds. Never torch."""
