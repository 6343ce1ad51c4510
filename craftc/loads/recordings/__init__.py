"""Loads as servers record them, one system per file."""
