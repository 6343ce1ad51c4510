"""Graph in, graph out: one pass a file, each with a checked contract."""
