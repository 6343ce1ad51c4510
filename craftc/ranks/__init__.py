"""Jobs on several ranks, started through torchrun."""
