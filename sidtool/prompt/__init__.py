"""How a history, a title or a semantic ID is rendered for a model: templates, and token ids by
arithmetic."""
