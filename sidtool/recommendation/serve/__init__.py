"""The HTTP service: requests of many clients to one model, in batches."""
