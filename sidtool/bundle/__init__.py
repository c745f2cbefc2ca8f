"""The artefact: codebook, item map and recipe in one Zarr group."""
