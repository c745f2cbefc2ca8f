"""The memory: which items users interacted with together, as a sparse item-item matrix."""
