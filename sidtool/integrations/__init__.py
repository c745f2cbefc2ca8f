"""Other systems: their files and models, vLLM, Ray."""
