"""Searching placements against every single step: moves, their worth, and how long to go on."""
