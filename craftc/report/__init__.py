"""Tables, pictures and text for people."""
