"""Pages that show an artifact: self-contained HTML without a script."""
