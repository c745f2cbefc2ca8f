"""Tasks and a split become training examples, in one file format."""
