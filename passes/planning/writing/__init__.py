"""What planning writes down; no file here is a pass."""
