"""Other systems' maps of items to semantic IDs: import as bundles, export from bundles."""

from sidtool.integrations.formats.convert import CatalogFile, Exported, export_map, import_map

__all__ = ["CatalogFile", "Exported", "export_map", "import_map"]
