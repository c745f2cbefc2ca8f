import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sidtool
from sidtool import (
    Bundle,
    EventNames,
    FieldName,
    FieldOptions,
    FilterOptions,
    PrepareOptions,
    RlOptions,
)
from sidtool.base.errors import UsageError
from sidtool.base.given_options import given_words
from sidtool.base.options import argument_options, assignments, options_from, settings_from
from sidtool.data.split import SplitOptions
from sidtool.evaluation import EvaluationOptions
from sidtool.examples import SftOptions
from sidtool.memory.mixture import MemoryOptions
from sidtool.recipes import FitOptions
from sidtool.recommendation import RecommendOptions
from sidtool.recommendation.serve import serve_options
from sidtool.tokenizer import BuildOptions


def test_keywords_are_named_as_fields_or_as_flags() -> None:
    assert options_from(SftOptions, None, {"tasks": {"next-item": 2.0}}).tasks == {"next-item": 2.0}
    assert options_from(SftOptions, None, {"task": {"next-item": 2.0}}).tasks == {"next-item": 2.0}
    assert options_from(BuildOptions, None, {"levels": (8, 4)}).sizes == (8, 4)
    assert options_from(BuildOptions, None, {"levels": "8x4"}).sizes == (8, 4)
    assert options_from(SplitOptions, None, {}) == SplitOptions()
    options = SplitOptions()
    assert options_from(SplitOptions, options, {}) is options


@pytest.mark.parametrize(
    ("kind", "name", "value", "held"),
    [
        (FieldOptions, "feedback", "rating:int", (FieldName("rating", "int"),)),
        (FieldOptions, "feedback", ["rating"], (FieldName("rating"),)),
        (FieldOptions, "target", "rating>=4", ("rating>=4",)),
        (PrepareOptions, "items", "items.csv", Path("items.csv")),
        (SplitOptions, "extends", "earlier", (Path("earlier"),)),
        (FilterOptions, "since", 103, "103"),
        (SftOptions, "tasks", "list=2", {"list": 2.0}),
        (RecommendOptions, "allow", pd.Series(["a", "b"], index=[7, 3]), ("a", "b")),
        (RecommendOptions, "deny", {"a": 1, "b": 2}.keys(), ("a", "b")),
        (RecommendOptions, "deny", frozenset("a"), ("a",)),
        (BuildOptions, "sizes", np.array([8, 4]), (8, 4)),
        (EvaluationOptions, "ks", 5, (5,)),
    ],
)
def test_values_of_callers_become_those_of_flags(
    kind: type, name: str, value: Any, held: Any
) -> None:
    assert getattr(kind(**{name: value}), name) == held


def test_numbers_of_numpy_are_recorded_as_numbers() -> None:
    assert json.dumps(BuildOptions(seed=np.int64(3)).seed) == "3"  # type: ignore[arg-type]
    assert json.dumps(SftOptions({"list": np.int64(2)}).tasks) == '{"list": 2}'
    assert json.dumps(MemoryOptions(weight=np.float32(0.5)).weight) == "0.5"
    with pytest.raises(UsageError, match="weight must be a number, not 'x'"):
        MemoryOptions(weight="x")  # type: ignore[arg-type]
    assert BuildOptions(method_options={"balanced": np.True_}).method_options == {"balanced": True}
    ids, vectors = ["a", "b"], np.eye(2, dtype=np.float32)
    bundle = Bundle.from_vectors(ids, vectors, levels=(2, 2), balanced=np.False_)
    assert len(bundle) == 2
    options, fields = settings_from(RlOptions, None, {"seed": np.int64(3)}, {"beta": np.float64(1)})
    assert (options, repr(fields)) == (RlOptions(), "{'seed': 3, 'beta': 1.0}")


def test_a_keyword_that_is_a_field_is_not_the_flag_of_another() -> None:
    columns = options_from(SplitOptions, None, {"order": "row"}).columns
    assert columns == EventNames(order="row", order_by="column")


def test_an_unknown_keyword_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"there is no option protocl, known are .*protocol"):
        options_from(SplitOptions, None, {"protocl": "temporal"})
    with pytest.raises(UsageError, match="options and the keyword seed are both given"):
        options_from(SftOptions, SftOptions(), {"seed": 1})
    with pytest.raises(UsageError, match="tasks and task are one option: give one of them"):
        options_from(SftOptions, None, {"tasks": {"list": 2}, "task": {"sequence": 1}})
    for other in ({"seed": 1}, 5, FitOptions()):
        with pytest.raises(UsageError, match="options are SftOptions or keywords, not"):
            options_from(SftOptions, other, {})  # type: ignore[arg-type]


def test_keywords_reach_groups_by_their_flags() -> None:
    served, listening = serve_options("tuned", None, {"memory": "m.zarr", "k": 3, "port": 0})
    assert (served.model, served.memory.location, served.recommend.k) == ("tuned", "m.zarr", 3)
    assert listening.port == 0
    by_flag, by_field = ({"batch_wait": 5}, {"batch_seconds": 0.005})  # milliseconds and seconds
    assert serve_options("tuned", None, by_flag) == serve_options("tuned", None, by_field)
    assert options_from(FitOptions, None, {"id_column": "sku"}).columns.id_column == "sku"
    with pytest.raises(UsageError, match="there is no option hots"):
        serve_options("tuned", None, {"hots": "0.0.0.0"})


def test_a_group_and_a_keyword_of_it_are_not_both_given() -> None:
    names = EventNames(user="visitor")
    assert options_from(SplitOptions, None, {"columns": names}).columns is names
    with pytest.raises(UsageError, match="columns and item_column are both given: use one"):
        options_from(SplitOptions, None, {"columns": names, "item_column": "sku"})
    with pytest.raises(UsageError, match="limits must be ServeLimits, not int"):
        serve_options("tuned", None, {"limits": 5})
    with pytest.raises(UsageError, match="the option task is missing"):
        options_from(sidtool.TaskEvaluationOptions, None, {})


def test_an_argument_takes_options_a_text_and_keywords_by_flags() -> None:
    def taken(value: Any, **keywords: Any) -> Any:
        memory = argument_options(MemoryOptions, value, keywords)
        assert keywords == {}
        return memory

    assert taken(None) is None
    assert taken("m.zarr") == taken(Path("m.zarr")) == MemoryOptions("m.zarr")
    assert taken("m.zarr", memory_weight=0) == MemoryOptions("m.zarr", weight=0)
    assert taken(None, rerank=False) == MemoryOptions(rerank=False)
    with pytest.raises(UsageError, match="MemoryOptions and the keyword memory_weight are both"):
        taken(MemoryOptions(), memory_weight=0)
    with pytest.raises(UsageError, match=r"memory is given twice: 'm\.zarr' and 'n\.zarr'"):
        taken("m.zarr", memory="n.zarr")
    with pytest.raises(UsageError, match="the option weight is missing"):
        argument_options(sidtool.WeightOptions, None, {"weight_clip": 2.0})
    keywords = {"weight": 0.5}  # of an evaluation, not of the memory
    assert argument_options(MemoryOptions, None, keywords) is None
    assert keywords == {"weight": 0.5}


def test_an_unknown_keyword_is_answered_with_the_flags_of_all_arguments() -> None:
    with pytest.raises(
        UsageError, match=r"there is no option memory_wait, known are .*memory_weight"
    ):
        sidtool.recommend("tuned", [], memory_wait=0)


def test_every_public_function_with_options_takes_keywords() -> None:
    for name in sidtool.__all__:
        function = getattr(sidtool, name)
        if inspect.isfunction(function):
            parameters = inspect.signature(function).parameters
            kinds = [parameter.kind for parameter in parameters.values()]
            assert "options" not in parameters or inspect.Parameter.VAR_KEYWORD in kinds, name


def test_a_value_that_is_no_yaml_is_a_text() -> None:
    pairs = ["rate=1e-3", "run_name=one: two: three"]
    assert assignments(pairs) == {"rate": "1e-3", "run_name": "one: two: three"}


def test_given_options_are_words_of_a_command_line() -> None:
    assert given_words(MemoryOptions()) == ()
    given = MemoryOptions(location="to night", weight=0.5, rerank=False)
    words = ("--memory", "to night", "--memory-weight", "0.5", "--no-rerank")
    assert given_words(given) == words
    assert given_words(EvaluationOptions(exclude_seen=True)) == ("--exclude-seen",)
