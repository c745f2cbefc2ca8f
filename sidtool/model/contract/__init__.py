"""What a model records about its tokenizer and its making, and what it may be combined with."""
