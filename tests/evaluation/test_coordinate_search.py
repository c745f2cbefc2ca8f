"""The search of settings."""

from sidtool.evaluation.similarity_tuning import coordinate_search

GRID = {"x": (0, 1, 2, 3), "y": (0, 1, 2, 3)}


def test_a_second_round_sees_what_the_first_chose() -> None:
    steps: list[tuple[int, int]] = []
    best, quality = coordinate_search(
        {"x": 0, "y": 0, "z": 7},
        GRID,
        lambda values: -2 * abs(values["y"] - 3) - abs(values["x"] - values["y"]),
        lambda *step: steps.append(step),
    )
    assert (best, quality) == ({"x": 3, "y": 3, "z": 7}, 0)
    assert steps == [(step, 16) for step in range(1, 17)]


def test_settings_are_tried_once_and_ties_keep_the_earlier() -> None:
    tried: list[tuple[int, ...]] = []

    def constant(values: dict[str, int]) -> float:
        tried.append(tuple(values.values()))
        return 1.0

    assert coordinate_search({"x": 1, "y": 2}, GRID, constant) == ({"x": 1, "y": 2}, 1.0)
    assert len(tried) == len(set(tried)) == 7
