"""Numbers in, numbers out, without torch: replication, placement, allocation, replay, baselines, bounds."""
