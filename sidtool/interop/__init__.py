"""Other systems' maps of items to semantic IDs, read into bundles and written from them: one file a
system."""
