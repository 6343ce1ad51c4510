"""Graph in, graph out: one pass per file, each with a checked contract."""
