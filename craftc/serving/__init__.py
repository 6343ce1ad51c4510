"""What a plan is worth on a server: clusters, memory, step times, goodput."""
