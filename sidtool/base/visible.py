"""Text from data as text that can be shown: nothing in it acts on a terminal or a page."""

import re

STEERING = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]"
)
"""Control characters, line separators, changes of the direction of writing, and lone surrogates."""


def visible(text: str) -> str:
    """The text with an escape such as `\\x1b` in place of each character that would steer a
    terminal, break the line or not encode."""
    return STEERING.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
