"""Requests and answers: prompts of histories and texts to ranked items."""
