"""Training examples and an extended model become a trained model."""
