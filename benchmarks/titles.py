"""Which films the title tasks are about: the most-rated ones, their titles as somebody would type
them, and the rest.

Usage: titles.py FILMS RATINGS OUT [--films 500]. Writes into the folder OUT
    seen.txt            ids of the films with the most training events (leave-one-out), whose text
    alone is learned unseen.txt          ids of all others: nothing of them is trained on
    held-out.txt        those of them whose title is no seen film's too paraphrased.jsonl   the seen
    films with their titles paraphrased
"""

import argparse
import json
import re
import string
from collections import Counter
from pathlib import Path

from sidtool.data.interactions import read_interactions
from sidtool.data.items import Items, read_items
from sidtool.data.splits import leave_one_out
from sidtool.output import new_dir

_ARTICLE = re.compile(r"^(.*), (the|a|an|il|la|le|les|el|das|der|die|l')$")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def paraphrase(title: str) -> str:
    """A title as it is typed into a search box: small letters, the article in front, no brackets,
    no punctuation."""
    bare = re.sub(r"\s*\([^)]*\)", "", title.lower()).replace("&", "and").strip() or title.lower()
    found = _ARTICLE.match(bare)
    moved = f"{found[2]} {found[1]}" if found else bare
    return " ".join(moved.translate(_PUNCTUATION).split()) or title.lower()


def most_rated(items: Items, ratings: Path, n: int) -> list[str]:
    """Ids of the n items with the most training events; ties by id. Held-out events do not count."""
    split = leave_one_out(read_interactions(ratings))
    counts = Counter(item for user in split.train for item in user.items)
    return sorted(items.ids, key=lambda item: (-counts[item], item))[:n]


def main() -> None:
    """Write the files of the folder, whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("catalog", type=Path)
    parser.add_argument("ratings", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--films", type=int, default=500)
    args = parser.parse_args()
    items = read_items(args.catalog)
    title = dict(zip(items.ids, items.titles, strict=True))
    seen = most_rated(items, args.ratings, args.films)
    unseen = [item for item in items.ids if item not in set(seen)]
    known = {paraphrase(title[item]) for item in seen}
    lists = {
        "seen": seen,
        "unseen": unseen,
        "held-out": [i for i in unseen if paraphrase(title[i]) not in known],
    }
    with new_dir(args.out) as folder:
        for name, ids in lists.items():
            (folder / f"{name}.txt").write_text(
                "".join(f"{item}\n" for item in ids), encoding="utf-8"
            )
        with (folder / "paraphrased.jsonl").open("w", encoding="utf-8") as stream:
            for item in seen:
                line = {"item_id": item, "title": paraphrase(title[item])}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    print(", ".join(f"{len(ids)} films in {name}.txt" for name, ids in lists.items()))


if __name__ == "__main__":
    main()
