"""Compare the figures of README, docs, benchmarks and examples with the results files they come from.

Every paragraph, list or table that has a decimal number or a percentage needs a comment below it:

    <!-- source: beauty-memory.json
    .0183, .0224 = seeds/0/differences/model alone/ndcg@10/{low,high}
    7% = seeds/*/metrics/ndcg@10 / baselines/item-knn, tuned on validation/metrics/ndcg@10 - 1
    .85, 2.13 = setting
    holds: min seeds/*/differences/memory alone/ndcg@10/low > 0
    -->

* A line names figures as the text prints them, in the order of the text, and where each is from.
  Whole numbers may be left out. A figure must be its value rounded to the printed digits.
* `a/b` is a key of the results file, `*` every key or element, `{low,high}` two expressions. Several
  values are averaged, unless `std`, `min`, `max` or `sum` precedes the path. Operators stand
  between blanks and are applied from left to right.
* A line with the name of a file (a pattern: all files that match), or `FILE#` before a path,
  replaces the file.
* `setting` is an input (a default, a version, a size), `paper` a figure of others, `estimate` the
  result of arithmetic, `unrecorded` a measurement without a results file. They are counted. Such
  a word in place of the file stands for all figures of the block.
* `holds:` is a statement of the text, in figures.

Below a table, a line of cells has a source for each column, in which `$1`, `$2` are the paths that the
lines after it give for each row. A line of cells without `$` is one row. Each row of the table has
its line; `-` is a row without figures.

    | | $1/hr@10 | 1000 * $2/{low,high} |
    seeds/0/metrics; seeds/0/differences/popularity/hr@10
"""

import itertools
import json
import operator
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("docs/*.md", "benchmarks/*.md", "examples/**/*.md")
GENERATED = {"cli.md", "settings.md", "tasks.md"}
KINDS = ("setting", "paper", "estimate", "unrecorded")
REDUCERS: Mapping[str, Any] = {"std": stdev, "min": min, "max": max, "sum": sum}
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
NUMBER = re.compile(  # not a part of a name, a version, a path or a power
    r"(?<![\w.,/@^:])(?<![^\W\d]-)[-+−]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)%?(?:x\b)?(?![\w^]|[.,]\d)"
)
NOT_FIGURES = re.compile(
    r"`[^`]+`|\]\([^)]*\)|https?://\S+|\b\d{4}\.\d{5}\b"
    r"|95%\s(?:\w+\s){0,2}intervals?|intervals? of\s95%"
)


class FigureError(ValueError):
    """A source that cannot be read."""


@dataclass
class Block:
    """A paragraph, list or table, and the lines of its source."""

    line: int
    lines: list[str]
    source: list[str] = field(default_factory=list)

    @property
    def is_open_list(self) -> bool:
        """Whether an indented paragraph after the block belongs to it."""
        return bool(re.match(r"\s*([*-]|\d+\.) ", self.lines[0])) and not self.source

    def figures(self) -> list[tuple[int, str]]:
        """The numbers of the block, each with its line."""
        text = without_code("\n".join(self.lines))
        return [
            (self.line + text.count("\n", 0, match.start()), match[0])
            for match in NUMBER.finditer(text)
        ]


@dataclass
class Check:
    """What is wrong on the pages, and how many figures have which kind of source."""

    results: Path
    errors: list[str] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    page: str = ""

    def check_page(self, name: str, text: str) -> None:
        self.page = name
        try:
            page_blocks = blocks(text)
        except FigureError as error:
            self.error(1, str(error))
            return
        for block in page_blocks:
            try:
                self.check_block(block)
            except (ArithmeticError, ValueError) as error:
                self.error(block.line, str(error))

    def check_block(self, block: Block) -> None:
        """The figures of a block against its source, in the order of the text."""
        if any(line.startswith("|") for line in block.source):
            self.check_table(block)
            return
        figures, place, file, kind = block.figures(), 0, "", ""
        for line in block.source:
            if line in KINDS:
                kind = line
            elif line.endswith(".json"):
                file = line
            elif line.startswith("holds: "):
                self.check_statement(block.line, line.removeprefix("holds: "), file)
            else:
                for literal, source in named_sources(line, file):
                    while place < len(figures) and figures[place][1] != literal:
                        self.need_source(*figures[place])
                        place += 1
                    if place == len(figures):
                        raise FigureError(
                            f"the source has {literal}, which the text lacks at this place"
                        )
                    self.compare(*figures[place], source)
                    place += 1
        for number, text in figures[place:]:
            if kind and is_metric(text):
                self.compare(number, text, Source(kind))
            elif not kind:
                self.need_source(number, text)

    def check_table(self, block: Block) -> None:
        rows = [split_row(line) for line in block.lines[2:]]
        for text in numbers(block.lines[0]):
            self.need_source(block.line, text)
        lines, file, columns = [], "", []
        for line in block.source:
            if line.endswith(".json"):
                file = line
            elif line.startswith("holds: "):
                self.check_statement(block.line, line.removeprefix("holds: "), file)
            elif "$" in line:
                columns = split_row(line)
            elif line.startswith("|"):
                lines.append((split_row(line), file))
            else:
                paths = line.split("; ")
                lines.append(([filled(cell, paths) for cell in columns], file))
        if len(lines) != len(rows):
            raise FigureError(f"the table has {len(rows)} rows, its source {len(lines)}")
        for place, (row, (cells, default)) in enumerate(zip(rows, lines, strict=True)):
            number = block.line + 2 + place
            for text, cell in itertools.zip_longest(row, cells, fillvalue=""):
                figures = numbers(text)
                origin = sources(cell, default) if cell else []
                if cell in KINDS:
                    origin *= len(figures)
                if not cell:
                    for figure in figures:
                        self.need_source(number, figure)
                elif figures and len(figures) != len(origin):
                    raise FigureError(
                        f"{text!r} has {len(figures)} figures, its source {cell!r} {len(origin)}"
                    )
                else:
                    for figure, source in zip(figures, origin, strict=False):
                        self.compare(number, figure, source)

    def need_source(self, line: int, text: str) -> None:
        if is_metric(text):
            self.error(line, f"{text} has no source")

    def compare(self, line: int, text: str, source: "Source") -> None:
        if source.expression in KINDS:
            self.counts[source.expression, self.page] += 1
            return
        value = source.value(self.results)
        self.counts["results", self.page] += 1
        if not is_rounded(text, value):
            self.error(line, f"{text} is {value:.6g} by {source.file}: {source.expression}")

    def check_statement(self, line: int, text: str, file: str) -> None:
        left, sign, right = text.partition(" < ") if " < " in text else text.partition(" > ")[::-1]
        if not sign:
            raise FigureError(f"{text!r} compares nothing: A < B or A > B")
        for low, high in itertools.product(sources(left, file), sources(right, file)):
            self.counts["statements", self.page] += 1
            if not low.value(self.results) < high.value(self.results):
                values = f"{low.value(self.results):.6g} and {high.value(self.results):.6g}"
                self.error(line, f"{text} does not hold: {values}")

    def error(self, line: int, text: str) -> None:
        self.errors.append(f"{self.page}:{line}: {text}")


@dataclass(frozen=True)
class Source:
    """An expression over the keys of a results file."""

    expression: str
    file: str = ""

    def value(self, results: Path) -> float:
        first, *operations = re.split(r" ([-+*/]) ", self.expression)
        total = self.operand(results, first)
        for sign, text in zip(operations[::2], operations[1::2], strict=True):
            total = OPERATORS[sign](total, self.operand(results, text))
        return total

    def operand(self, results: Path, text: str) -> float:
        if re.fullmatch(r"-?[\d.]+", text):
            return float(text)
        name, _, path = text.partition(" ")
        if name not in REDUCERS:
            name, path = "", text
        file, _, path = path.rpartition("#")
        values = leaves(results, file or self.file, path)
        if not all(isinstance(value, int | float) for value in values):
            raise FigureError(f"{file or self.file}: {path} is not a number")
        return float(REDUCERS.get(name, fmean)(values))


@cache
def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def leaves(results: Path, file: str, path: str) -> list[Any]:
    """The values of a path in all files that match the pattern."""
    values = (
        [read_json(results_file) for results_file in sorted(results.glob(file))] if file else []
    )
    if not values:
        raise FigureError(f"no results file {file!r} for {path}")
    for key in path.split("/"):
        try:
            values = [child for value in values for child in children(value, key)]
        except (KeyError, IndexError, TypeError, ValueError):
            raise FigureError(f"{file} has no {path}: no {key!r}") from None
    if not values:
        raise FigureError(f"{file}: nothing matches {path}")
    return values


def children(value: Any, key: str) -> list[Any]:
    if key == "*":
        return list(value.values()) if isinstance(value, dict) else list(value)
    return [value[int(key)] if isinstance(value, list) else value[key]]


def sources(text: str, file: str) -> list[Source]:
    """The expressions of a text; braces stand for one expression each."""
    return [Source(term, file) for part in text.split("; ") for term in expanded(part.strip())]


def named_sources(line: str, file: str) -> list[tuple[str, Source]]:
    """The figures that a line of a source names, each with its expression."""
    left, equals, right = line.partition(" = ")
    literals, origin = left.split(", "), sources(right, file)
    if right in KINDS:
        origin *= len(literals)
    if not equals or len(literals) != len(origin):
        raise FigureError(f"{line!r}: {len(literals)} figures from {len(origin)} values")
    return list(zip(literals, origin, strict=True))


def expanded(text: str) -> list[str]:
    braces = re.search(r"\{([^{}]*)\}", text)
    if not braces:
        return [text]
    before, after = text[: braces.start()], text[braces.end() :]
    return [before + name + ending for name in braces[1].split(",") for ending in expanded(after)]


def filled(cell: str, paths: list[str]) -> str:
    """A cell with the paths of its row."""
    if paths == ["-"]:
        return ""
    for place, path in enumerate(paths, 1):
        cell = cell.replace(f"${place}", path)
    return "" if "$" in cell else cell


def numbers(text: str) -> list[str]:
    return [match[0] for match in NUMBER.finditer(without_code(text))]


def without_code(text: str) -> str:
    """A text without code, links, numbers of arXiv and names of intervals; lines stay."""
    return NOT_FIGURES.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def is_metric(text: str) -> bool:
    """Whether a number must have a source: decimals and percentages."""
    return "." in text or "%" in text


def is_rounded(text: str, value: float) -> bool:
    """Whether the printed number is the value, rounded either way where it lies between two."""
    digits = text.replace(",", "").replace("−", "-").strip("x%")
    if "%" in text:
        value *= 100
    unit = 10.0 ** -len(digits.partition(".")[2])
    return abs(float(digits) - value) <= unit / 2 + 1e-9


def split_row(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def blocks(text: str) -> list[Block]:
    """The blocks of a page outside of code, each with the source below it."""
    page: list[Block] = []
    comment: list[str] | None = None
    fence, fresh = False, True
    for number, line in enumerate(text.splitlines(), 1):
        if comment is None and line.strip().startswith("<!-- source:"):
            comment = []
            line = line.strip().removeprefix("<!-- source:")
        if comment is not None:
            comment.append(line.replace("-->", "").strip())
            if not page:
                raise FigureError(f"line {number}: a source without text above it")
            if "-->" in line:
                page[-1].source += [part for part in comment if part]
                comment, fresh = None, True
        elif line.strip().startswith("```"):
            fence, fresh = not fence, True
        elif fence or not line.strip():
            fresh = True
        elif fresh and line.startswith("  ") and page and page[-1].is_open_list:
            page[-1].lines += [""] * (number - page[-1].line - len(page[-1].lines)) + [line]
            fresh = False
        elif fresh and line.startswith("    "):
            continue  # indented code
        elif fresh:
            page.append(Block(number, [line]))
            fresh = False
        else:
            page[-1].lines.append(line)
    if comment is not None:
        raise FigureError("a source has no end -->")
    return page


def pages() -> list[Path]:
    written = sorted(page for place in PLACES for page in ROOT.glob(place))
    return [ROOT / "README.md", *(page for page in written if page.name not in GENERATED)]


def main() -> int:
    """Print what is wrong, and how many figures have which kind of source."""
    check = Check(ROOT / "benchmarks/results")
    for page in pages():
        check.check_page(str(page.relative_to(ROOT)), page.read_text(encoding="utf-8"))
    for kind in ("results", "statements", *KINDS):
        by_page = {page: count for (name, page), count in check.counts.items() if name == kind}
        shown = ", ".join(f"{page} {count}" for page, count in by_page.items())
        print(f"{kind}: {sum(by_page.values())}" + (f" ({shown})" if kind == "unrecorded" else ""))
    print("\n".join(check.errors), end="\n" if check.errors else "", file=sys.stderr)
    return 1 if check.errors else 0


if __name__ == "__main__":
    sys.exit(main())
