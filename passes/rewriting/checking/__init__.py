"""Comparing what two models compute; no file here is a pass."""
