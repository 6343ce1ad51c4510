"""The command line: one command a file; the only room that imports typer and rich."""
