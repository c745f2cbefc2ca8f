"""The code blocks of the documentation's pages, and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ENCODER = "hf://sentence-transformers/all-MiniLM-L6-v2"
"""The encoder that pages name; tests have a tiny one in its place."""


@dataclass(frozen=True)
class Command:
    """The words of a command after `sidtool`, the standard input that `echo` pipes into it, and the
    file that `>` writes."""

    words: tuple[str, ...]
    piped: str | None = None
    written: str | None = None


def page(name: str) -> str:
    """The text of a page of docs/."""
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """The code blocks in these languages, in order."""
    return re.findall(rf"```(?:{'|'.join(languages)})\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str, *languages: str) -> list[Command]:
    """The `sidtool` commands in the blocks of these languages, in order."""
    lines = "\n".join(blocks(text, *languages)).replace("\\\n", " ").splitlines()
    result = []
    for line in lines:
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if "sidtool" in words and words[0] in ("sidtool", "echo", "torchrun", "accelerate"):
            piped = words[1] + "\n" if words[0] == "echo" else None
            written = words[-1] if words[-2] == ">" else None
            end = -2 if written else None
            result.append(Command(tuple(words[words.index("sidtool") + 1 : end]), piped, written))
    return result
