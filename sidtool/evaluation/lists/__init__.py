"""Evaluation of lists: metrics of a list as a whole, over held-out sessions."""
