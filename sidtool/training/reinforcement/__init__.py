"""Preference alignment on lists: pairs of lists that a model wrote, the better and the worse by a
reward, and their log-probabilities with a gradient."""
