"""The constraint inside other inference engines: vLLM samples and searches only valid SIDs."""
