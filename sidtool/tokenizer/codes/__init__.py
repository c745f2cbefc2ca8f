"""The final codes of items: from vectors to semantic IDs without collisions, measured."""
