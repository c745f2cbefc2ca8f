import json
from dataclasses import asdict, replace

import numpy as np

from sidtool.cli.reports.comparable import Comparable, answers, comparison, public_codebooks
from sidtool.tokenizer import BundleFigures, Evidence, describe
from tests.bundles import small_bundle
from tests.doc_blocks import ROOT


def figures(*, perplexity: float = 250.0, sharing: int = 0, levels: int = 3) -> BundleFigures:
    """Figures of 10,000 items on levels of 256 codes, the second with this perplexity."""
    made = describe(small_bundle(40, (4, 5, 6)), Evidence(None))
    use = replace(made.levels[0].use, size=256, utilization=1.0, perplexity=250.0)
    even = replace(made.levels[0], use=use)
    second = replace(even, use=replace(use, perplexity=perplexity))
    return replace(
        made,
        items=10_000,
        sizes=(256,) * levels,
        after=replace(made.after, items=sharing),
        levels=tuple(second if number == 1 else even for number in range(levels)),
    )


def test_even_levels_without_shared_sids_are_good() -> None:
    text = answers(figures())
    assert text[0] == "Good: every item has a SID of its own."
    assert "Good: level 2 has a perplexity of 250, 98% of the possible; public catalogs" in text[2]
    assert all(sentence.startswith("Good: ") for sentence in text)


def test_what_is_bad_comes_first() -> None:
    text = answers(figures(perplexity=20.0, sharing=9000))
    assert text[0].startswith("Look at it: 90.0% of the items share their SID")
    assert text[1] == (
        "Look at it: Level 2 has a perplexity of 20, 8% of the possible: it is collapsed, a few "
        "codes have nearly all items."
    )
    lowest = min(codebook.even[1] for codebook in public_codebooks())
    low = answers(figures(perplexity=256 * lowest - 2))
    assert low[0].startswith("Look at it: Level 2 has a perplexity of ")
    assert "collapsed" not in low[0]
    usual = answers(figures(perplexity=256 * lowest + 2, sharing=100))
    assert [sentence.partition(":")[0] for sentence in usual] == ["Usual", "Usual", "Good", "Good"]


def test_an_appended_level_and_those_that_no_public_catalog_has_are_not_judged() -> None:
    most = max(len(codebook.sizes) for codebook in public_codebooks())
    assert len(answers(figures(levels=6))) == 1 + most
    assert len(answers(replace(figures(), policy="append"))) == 1 + 2


def test_a_bundle_stands_beside_public_catalogs() -> None:
    table = comparison([Comparable.of("mine", figures(sharing=100)), *public_codebooks()])
    assert table.rows[0] == (
        *("mine", "rq-kmeans", "10,000", "256x256x256", "1.0%"),
        *("100%, 100%, 100%", "98%, 98%, 98%"),
    )
    assert len(table.rows) == 1 + len(public_codebooks())


def test_the_figures_are_those_that_were_measured() -> None:
    path = ROOT / "benchmarks" / "results" / "comparable.json"
    measured = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert json.loads(json.dumps([asdict(codebook) for codebook in public_codebooks()])) == measured


def test_figures_are_shares_of_what_is_possible() -> None:
    bundle = small_bundle(40, (4, 5, 64))
    comparable = Comparable.of("shop", describe(bundle, Evidence(None)))
    counts = [np.bincount(column) for column in bundle.items.codes.T]
    for number, level_counts in enumerate(counts):
        probabilities = level_counts[level_counts > 0] / 40
        perplexity = np.exp(-(probabilities * np.log(probabilities)).sum())
        assert np.isclose(comparable.even[number], perplexity / min((4, 5, 64)[number], 40))
