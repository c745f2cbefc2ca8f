"""Questions of one task to a model, made of a split, a catalog or training examples."""
