"""Measured loads: the value, craftc's own files, other systems' recordings, and one reader for all of them."""
