import json
from pathlib import Path

from sidtool.training.loop.checkpoints import STATE_FILE, TOTALS_FILE, Totals, relocate_best


def test_a_checkpoint_without_totals_has_zeros(tmp_path: Path) -> None:
    assert Totals.read(tmp_path) == Totals()
    (tmp_path / TOTALS_FILE).write_text("{")
    assert Totals.read(tmp_path) == Totals()


def test_the_best_checkpoint_is_found_where_the_folder_was_moved(tmp_path: Path) -> None:
    last = tmp_path / "checkpoint-8"
    last.mkdir()
    state = {"best_model_checkpoint": "/elsewhere/checkpoint-4", "epoch": 2}
    for best, expected in (("", "/elsewhere/checkpoint-4"), ("checkpoint-4", None)):
        (tmp_path / best).mkdir(exist_ok=True)
        (last / STATE_FILE).write_text(json.dumps(state))
        relocate_best(last)
        found = expected or str(tmp_path / best)
        assert json.loads((last / STATE_FILE).read_text()) == state | {
            "best_model_checkpoint": found
        }
