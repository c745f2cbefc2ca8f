"""Named byte objects in a folder or a zip, on disk or at any URL, and conditional writes."""
