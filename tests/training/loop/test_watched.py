from types import SimpleNamespace

import pytest

from sidtool.training.loop.watched import StopCallback


@pytest.mark.parametrize(
    ("seconds", "stop_step", "stops"),
    [(5, None, None), (5, 4, 4), (5, 90, 90), (15, None, 4), (15, 90, 4), (15, 4, 4), (15, 3, 3)],
)
def test_a_training_stops_at_its_step_or_after_its_time(
    seconds: int, stop_step: int | None, stops: int | None
) -> None:
    trainer = SimpleNamespace(seconds=seconds, stop_step=stop_step)
    arguments = SimpleNamespace(logging_strategy="no", eval_strategy="no", save_strategy="no")
    control = SimpleNamespace(should_training_stop=False)
    state = SimpleNamespace(global_step=4, max_steps=100)
    StopCallback(trainer, max_seconds=10).on_step_end(arguments, state, control)  # type: ignore[arg-type]
    assert trainer.stop_step == stops
    assert control.should_training_stop == (stops is not None and stops <= 4)
