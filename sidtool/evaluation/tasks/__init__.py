"""Questions of one task to a model, and how many of its answers are correct."""
