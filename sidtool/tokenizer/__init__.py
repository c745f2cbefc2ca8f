"""Which SID has an item: SID space, quantizers, assignment, texts to vectors, bundles."""
