"""Read a catalog, its events, queries and vectors from any container."""
