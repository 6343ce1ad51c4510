"""Readers and writers of placements in other systems' formats, one format per file."""
