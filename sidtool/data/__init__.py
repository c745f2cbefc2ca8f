"""Read a catalog, its events and its vectors; split the events."""
