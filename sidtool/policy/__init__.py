"""A model as a distribution over items: groups drawn from it, and their log-probabilities with a
gradient."""
