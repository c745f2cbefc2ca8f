"""How the title of an item is rendered in a prompt, in training examples as when serving; and so
every other text of an item, a query or a value of a field."""

MAX_TEXT_CHARACTERS = 400
"""Longer titles, descriptions and queries are shortened, in training examples and when serving, so
that two of them fit into a prompt."""


def item_text(text: str) -> str:
    """A text as prompts show it: on one line, cut between words to at most MAX_TEXT_CHARACTERS.
    Idempotent, since some paths to a prompt apply it twice."""
    text = " ".join(text.split())
    if len(text) <= MAX_TEXT_CHARACTERS:
        return text
    cut = text[:MAX_TEXT_CHARACTERS]
    return cut.rpartition(" ")[0] or cut
