"""Copies onto GPUs: how many of each expert, how many slots, and which copy goes where."""
