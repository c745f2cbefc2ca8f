"""What is not ours: files of other systems, their models, vLLM, Ray."""
