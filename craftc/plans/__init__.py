"""The plan: the value, its file, its verifier, its differences, and what it is worth on loads."""
