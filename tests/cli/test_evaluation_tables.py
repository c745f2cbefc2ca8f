import re
from dataclasses import replace

import pytest

from sidtool.cli import evaluation_tables
from sidtool.cli.evaluation_tables import _decimals, say_evaluation
from sidtool.data.split import Split
from sidtool.evaluation import Evaluation, EvaluationOptions
from sidtool.evaluation.bootstrap import Difference
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.memory import build_memory
from sidtool.memory.mixture import WeightedMemory
from tests.evaluation.shop import shop, visits
from tests.loaded import loaded_model


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Of a model with shared SIDs and a memory, against another one: all tables there are."""
    bundle = shop(shared=True)
    events, examples = visits()
    loaded = loaded_model(bundle)
    loaded = replace(loaded, contract=replace(loaded.contract, normalize="trie"))
    memory = build_memory(Split("leave-one-out", tuple(events), (), ()), bundle)
    with_memory = replace(loaded, memory=WeightedMemory(memory, 0.4, 2.0))
    return evaluate_examples(with_memory, examples, events, EvaluationOptions(), against=loaded)


def lines_of(text: str, label: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(label)]


def test_tables_show_figures(evaluation: Evaluation, capsys: pytest.CaptureFixture[str]) -> None:
    say_evaluation(evaluation, details=False, json=False)
    short = capsys.readouterr().out
    say_evaluation(evaluation, details=True, json=False)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert set(lines_of(short, "hr@10")) <= set(lines_of(text, "hr@10"))
    metric = lines_of(text, "ndcg@10")[0].split()
    assert float(metric[1]) == pytest.approx(evaluation.metrics["ndcg@10"], abs=6e-3)
    columns = ("model alone", "memory alone", "popularity", "item-knn")
    assert re.split(r" {2,}", lines_of(text, "  ")[0].strip())[2:] == list(columns)
    for figure, system in zip(metric[3:], columns, strict=True):
        expected = evaluation.baselines[system]["ndcg@10"]
        assert float(figure) == pytest.approx(expected, abs=6e-3)
    slice_rows = lines_of(text, "rare, 1-5")
    rare = evaluation.slices["rare"]
    assert slice_rows[0].split()[2] == str(rare.n)
    survival = slice_rows[1].split()[3:]
    expected = [rare.metrics[f"survival@{level}"] for level in (1, 2, 3)]
    assert [float(figure) for figure in survival] == pytest.approx(expected, abs=6e-3)
    gain = slice_rows[3].split()
    assert gain[2] == "ndcg@10"
    difference = rare.metrics["ndcg@10"] - rare.baselines["other model"]["ndcg@10"]
    assert float(gain[5]) == pytest.approx(difference, abs=6e-3)
    assert not lines_of(short, "mean over items, ")
    assert len(lines_of(short, "mean over items")) == 2  # of the gain, in two metrics
    assert f"{evaluation.coverage['model']:.1%}" in text
    assert "SID level" in text


def test_a_difference_of_almost_nothing_has_no_sign(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = Difference(-1e-9, -0.4, -1e-9, 0.5)
    differences = {"other model": dict.fromkeys(evaluation.metrics, nothing)}
    say_evaluation(replace(evaluation, differences=differences), details=False, json=False)
    gains = [line.split() for line in lines_of(capsys.readouterr().out, "all")]
    assert [gain[4:8] for gain in gains] == [["+0.00", "-0.40", "to", "0.00"]] * 2


@pytest.mark.parametrize(
    ("low", "high", "n", "decimals"),
    [
        (0.032, 0.038, 9000, 4),
        (0.2, 0.23, 9000, 3),
        (0.1, 0.4, 30, 2),
        (0.0, 1.0, 1, 2),
        (0.0, 0.0, 4, 2),  # nobody of four has a hit
        (0.0, 0.0, 90_000, 4),
    ],
)
def test_the_interval_decides_the_digits(low: float, high: float, n: int, decimals: int) -> None:
    assert _decimals((low, high), n) == decimals


def test_with_all_digits_the_tables_have_80_columns(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_tables, "DECIMALS", (4, 4))
    say_evaluation(evaluation, details=True, json=False)
    widths = [len(line.rstrip()) for line in capsys.readouterr().out.splitlines()]
    assert 70 < max(widths) <= 80
