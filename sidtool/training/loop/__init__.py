"""Trainers: how a model changes step by step, what is counted and checked, and checkpoints."""
