"""A trained model, brought to a newer bundle and newer events."""
