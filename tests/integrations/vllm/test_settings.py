"""The extra arguments of an engine's request."""

from typing import Any

import pytest

from sidtool.base.errors import UsageError
from sidtool.integrations.vllm.settings import RequestSettings


@pytest.mark.parametrize(
    "settings",
    [
        RequestSettings(),
        RequestSettings(constrained=False),
        RequestSettings(allow=(), deny=("a", "b")),
        RequestSettings(allow=("c",)),
    ],
)
def test_settings_survive_the_way_to_the_engine(settings: RequestSettings) -> None:
    assert RequestSettings.of(settings.to_extra_args()) == settings


def test_other_arguments_are_left_to_others() -> None:
    assert RequestSettings.of({"kv_transfer": 1}) == RequestSettings.of(None) == RequestSettings()


@pytest.mark.parametrize(
    ("extra_args", "message"),
    [
        ({"sid_denied": ["a"]}, "no extra argument 'sid_denied', only sid_constraint"),
        ({"sid_constraint": "no"}, "sid_constraint is true or false, not 'no'"),
        ({"sid_deny": "a"}, "sid_deny is a list of item ids, not 'a'"),
        ({"sid_allow": [1]}, "sid_allow is a list of item ids"),
    ],
)
def test_a_misspelt_argument_is_refused(extra_args: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RequestSettings.of(extra_args)
