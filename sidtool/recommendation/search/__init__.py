"""Constrained beam search: a token tree over one cache, the trie of valid SIDs, and filters."""
