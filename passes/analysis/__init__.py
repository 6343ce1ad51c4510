"""From a model to its MoE layers and their loads."""
