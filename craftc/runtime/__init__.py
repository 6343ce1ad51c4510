"""Replicated expert-parallel modules and the dispatchers behind them."""
