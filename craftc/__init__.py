"""craftc: a compiler that replicates and places the experts of Mixture-of-Experts models under a memory budget."""
