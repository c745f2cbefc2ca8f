"""A page as its parts, for the tests: parsed strictly, with what it refers to."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "link"}
SHAPES = {"polygon", "line", "circle", "polyline"}
"""Elements of an SVG that close themselves."""


@dataclass
class Parsed(HTMLParser):
    """The elements of a page. Fails at an element that is not closed, or closed out of order."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""
    stack: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES, tag
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def parsed(html: str) -> Parsed:
    """The parts of a page, which is self-contained: no script, no address, no handler, unique ids,
    and links within the page only."""
    page = Parsed()
    page.feed(html)
    page.close()
    assert page.stack == []
    assert page.count("script") == page.count("img") == page.count("link") == 0
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html
    assert "@import" not in html
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        if "href" in attributes:
            target = attributes["href"]
            assert target.removeprefix("#") in ids
    return page
