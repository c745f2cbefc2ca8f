import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sidtool.training.loop.checkpoints import (
    STATE_FILE,
    TOTALS_FILE,
    Totals,
    last_checkpoint,
    relocate_best,
)

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
FILES += (TOTALS_FILE, STATE_FILE)


def write_checkpoint(folder: Path) -> None:
    Totals(loss=0.5).write(folder)
    weights = {"weight": torch.arange(1000.0)}
    save_file(weights, folder / "model.safetensors")
    for name in FILES[1:4]:
        torch.save(weights, folder / name)
    (folder / STATE_FILE).write_text(json.dumps({"epoch": 2}))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, None])
def test_a_checkpoint_with_a_file_that_was_cut_off_is_none(
    tmp_path: Path, name: str, share: float | None
) -> None:
    for step in (2, 4):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    path = tmp_path / "checkpoint-4" / name
    if share is None:
        path.unlink()
    else:
        os.truncate(path, int(share * path.stat().st_size))
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


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
