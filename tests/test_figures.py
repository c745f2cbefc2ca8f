import json
import random
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = runpy.run_path(str(ROOT / "docs" / "check_figures.py"))
RESULT = {
    "n": 1234,
    "seeds": [{"ndcg@10": 0.0683, "low": -0.01}, {"ndcg@10": 0.0680, "low": 0.002}],
    "tuned, once": {"ndcg@10": 0.05},
}


def errors(tmp_path: Path, text: str, result: Any = RESULT) -> list[str]:
    """What the script says about a page beside one results file."""
    (tmp_path / "shop.json").write_text(json.dumps(result))
    SCRIPT["read_json"].cache_clear()
    check = SCRIPT["Check"](tmp_path)
    check.check_page("page.md", text)
    return check.errors


def page(text: str, *source: str) -> str:
    return "\n".join([text, "", "<!-- source: shop.json", *source, "-->", ""])


TABLE = page(
    "| system | n | N@10 |\n| --- | --- | --- |\n| ours | 1,234 | **.0681** |\n| tuned | | .05 |",
    "| | n | $1/ndcg@10 |",
    "seeds/*",
    "tuned, once",
)
PROSE = page(
    "Of 1,234 users, N@10 is .0681 (`x=.5`), 36% above\n.050; the lows are -.010 and +.002.",
    "1,234 = n",
    ".0681 = seeds/*/ndcg@10",
    "36% = seeds/*/ndcg@10 / tuned, once/ndcg@10 - 1",
    ".050 = tuned, once/ndcg@10",
    "-.010, +.002 = seeds/{0,1}/low",
    "holds: max seeds/*/low < tuned, once/ndcg@10",
)


@pytest.mark.parametrize("text", [TABLE, PROSE, PROSE.replace(".0681", ".0682")])
def test_figures_of_the_results_file_pass(tmp_path: Path, text: str) -> None:
    """The mean is .06815: both roundings are right."""
    assert not errors(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "old", "new", "error"),
    [
        (
            TABLE,
            "**.0681**",
            "**.0683**",
            "page.md:3: .0683 is 0.06815 by shop.json: seeds/*/ndcg@10",
        ),
        (TABLE, "| tuned | | .05 |", "| tuned | | .05 (.04) |", "has 2 figures"),
        (TABLE, "| tuned | | .05 |", "| tuned | .05 | .05 |", ".05 is 1234"),
        (TABLE, "tuned, once\n", "", "the table has 2 rows, its source 1"),
        (PROSE, "is .0681", "is .0683", "page.md:1: .0683 has no source"),
        (PROSE, "Of 1,234", "Of 1,235", "the source has 1,234"),
        (PROSE, "above\n", "above .07 and\n", "page.md:1: .07 has no source"),
        (PROSE, ".050 = tuned, once", ".050 = tuned", "shop.json has no tuned/ndcg@10: no 'tuned'"),
        (PROSE, "shop.json", "shops.json", "no results file 'shops.json'"),
        (PROSE, "low < tuned", "low > tuned", "does not hold: 0.05 and 0.002"),
        (PROSE, ".050 = ", ".050, .051 = ", "2 figures from 1 values"),
        (PROSE, "-->", "", "a source has no end"),
    ],
)
def test_what_differs_is_an_error(
    tmp_path: Path, text: str, old: str, new: str, error: str
) -> None:
    assert old in text
    assert error in "\n".join(errors(tmp_path, text.replace(old, new)))


def test_a_changed_results_file_is_an_error(tmp_path: Path) -> None:
    changed = {**RESULT, "tuned, once": {"ndcg@10": 0.0506}}
    assert ".050 is 0.0506" in "\n".join(errors(tmp_path, PROSE, changed))


def test_a_figure_needs_a_source_outside_of_code(tmp_path: Path) -> None:
    code = (
        "```\nndcg@10 .07\n```\n\n    N = .07\n\nOn torch 2.13.0: `.07`, 95% confidence intervals."
    )
    assert not errors(tmp_path, code)
    for figure in (".0699", "0.0699", "-.07", "7%", "2.5x", ".03-.07", "**.0699**"):
        assert errors(tmp_path, f"N@10 is {figure}."), figure


def test_figures_without_a_results_file_are_counted(tmp_path: Path) -> None:
    check = SCRIPT["Check"](tmp_path)
    check.check_page("page.md", "It is .07 and .08.\n\n<!-- source: unrecorded -->\n")
    assert not check.errors
    assert check.counts == {("unrecorded", "page.md"): 2}


def test_ten_changed_figures_of_the_pages_are_found() -> None:
    """Every page agrees with the results files, and does not once a digit of a figure changes."""
    compared = []

    class Recorded(SCRIPT["Check"]):  # type: ignore[misc]
        def compare(self, line: int, text: str, source: Any) -> None:
            super().compare(line, text, source)
            if source.expression not in SCRIPT["KINDS"]:
                compared.append((self.page, line, text))

    texts = {str(path): path.read_text(encoding="utf-8") for path in SCRIPT["pages"]()}
    whole = Recorded(ROOT / "benchmarks" / "results")
    for name, text in texts.items():
        whole.check_page(name, text)
    assert not whole.errors
    for name, line, figure in random.Random(0).sample(compared, 10):
        lines = texts[name].splitlines()
        digits = re.sub(r"\d(?=%?x?$)", lambda last: str((int(last[0]) + 5) % 10), figure)
        lines[line - 1] = re.sub(
            rf"(?<![\d.,]){re.escape(figure)}", digits, lines[line - 1], count=1
        )
        check = SCRIPT["Check"](whole.results)
        check.check_page(name, "\n".join(lines))
        assert check.errors, (name, line, figure)
