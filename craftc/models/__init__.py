"""Models as users name them, and what planning needs to know about one."""
