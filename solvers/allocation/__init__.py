"""How many replicas every layer gets under one budget, and budgets that choose themselves."""
