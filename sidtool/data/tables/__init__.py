"""Read a table in any container as columns of strings."""
