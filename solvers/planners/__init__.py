"""Ways to plan: one planner per file, listed by name in the registry."""
