"""The films of alignment.py's title tasks: the most-rated ones, their titles as a user would type
them, and the rest.

    python benchmarks/titles.py FILMS RATINGS OUT [--films 500]

OUT holds `seen.txt` (ids of the most-rated films), `unseen.txt` (all others), `held-out.txt` (those
of them whose title is no seen film's) and `paraphrased.jsonl` (seen films, titles paraphrased)."""

import argparse
import json
import re
import string
from collections import Counter
from pathlib import Path

from sidtool.base.output import new_dir
from sidtool.data.interactions import read_interactions
from sidtool.data.items import Items, read_items
from sidtool.data.split.protocols import leave_one_out

_ARTICLE = re.compile(r"^(.*), (the|a|an|il|la|le|les|el|das|der|die|l')$")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def paraphrase(title: str) -> str:
    """A title as a search query: lower case, the article in front, no brackets, no punctuation."""
    without_brackets = re.sub(r"\s*\([^)]*\)", "", title.lower()).replace("&", "and").strip()
    bare = without_brackets or title.lower()
    article = _ARTICLE.match(bare)
    if article:
        bare = f"{article[2]} {article[1]}"
    return " ".join(bare.translate(_PUNCTUATION).split()) or title.lower()


def most_rated(items: Items, ratings: Path, n: int) -> list[str]:
    """Ids of the n items with the most training events, ties by id."""
    split = leave_one_out(read_interactions(ratings))
    counts = Counter(item for user in split.train for item in user.items)
    return sorted(items.ids, key=lambda item: (-counts[item], item))[:n]


def write_title_lists(catalog: Path, ratings: Path, out: Path, films: int) -> None:
    """Write the four files to a new folder."""
    items = read_items(catalog)
    titles = dict(zip(items.ids, items.titles, strict=True))
    seen = most_rated(items, ratings, films)
    seen_titles = {paraphrase(titles[item]) for item in seen}
    unseen = [item for item in items.ids if item not in set(seen)]
    held_out = [item for item in unseen if paraphrase(titles[item]) not in seen_titles]
    lists = {"seen": seen, "unseen": unseen, "held-out": held_out}
    with new_dir(out) as folder:
        for name, ids in lists.items():
            lines = "".join(f"{item}\n" for item in ids)
            (folder / f"{name}.txt").write_text(lines, encoding="utf-8")
        with (folder / "paraphrased.jsonl").open("w", encoding="utf-8") as stream:
            for item in seen:
                line = {"item_id": item, "title": paraphrase(titles[item])}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("catalog", type=Path)
    parser.add_argument("ratings", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--films", type=int, default=500)
    args = parser.parse_args()
    write_title_lists(args.catalog, args.ratings, args.out, args.films)
