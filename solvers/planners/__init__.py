"""Ways to plan: one planner a file, all of them by name in the registry."""
