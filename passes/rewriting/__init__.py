"""From a plan and a graph to a rewritten graph that computes the same."""
