"""What tracing and finding MoE layers need; no file here is a pass."""
