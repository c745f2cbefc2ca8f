"""Names and versions of bundles at any URL: references, publishing, tags and cards."""
