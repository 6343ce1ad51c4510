"""From a plan in use to a better one within a budget of bytes that may move."""
