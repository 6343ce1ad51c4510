"""Reading and writing files safely; knows nothing about what is in them."""
