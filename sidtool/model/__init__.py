"""Language models with a SID vocabulary: tokens, embedding rows, and the contract that binds a
model to its bundle."""
