"""From a plan and a model to running ranks: the output folder, written and read back, and prepared models."""
