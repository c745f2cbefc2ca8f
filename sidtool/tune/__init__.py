"""Training: tasks become rows, rows become a tuned model."""
