"""Local search of placements against individual steps: moves, their value, and how long to search."""
