"""How many replicas every layer gets under one budget, and how a budget is chosen automatically."""
