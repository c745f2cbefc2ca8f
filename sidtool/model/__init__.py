"""A language model that speaks semantic IDs: its vocabulary, its rows, and the contract that binds
it to a bundle."""
