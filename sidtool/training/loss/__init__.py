"""What a training step minimizes: augmented examples, their batches, the loss, and teachers."""
