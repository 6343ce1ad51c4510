"""Readers and writers of other systems' files: one format a file."""
