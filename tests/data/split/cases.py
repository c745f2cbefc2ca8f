"""Windows cut from sequences."""

from sidtool.data.split.windows import Window


def windows_of(user: str, items: list[str], length: int) -> list[tuple[Window, int]]:
    """Every window of a sequence, with the position of its target."""
    return [
        (Window(user, tuple(items[max(0, at - length) : at]), items[at]), at)
        for at in range(1, len(items))
    ]
