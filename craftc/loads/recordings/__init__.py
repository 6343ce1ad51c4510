"""Loads as servers record them, one system a file."""
