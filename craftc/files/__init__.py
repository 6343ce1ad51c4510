"""Reading and writing files safely; knows nothing of what is in them."""
