"""Operations that make bundles or compare them: build, add items, encode, diff, align, compare."""
