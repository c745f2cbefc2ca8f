import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from sidtool.base.errors import UsageError
from sidtool.base.options import check_options, group, meanings, option, parse_bytes, read_ids
from sidtool.cli.command import Command
from sidtool.cli.groups import Given, with_flags
from sidtool.integrations.cluster.engines import ENGINES, EngineName
from sidtool.integrations.formats.convert import FORMATS, System
from sidtool.tokenizer.quantize.methods import METHODS, Method


@dataclass(frozen=True)
class Extra:
    path: str = option(flag="--extra")
    share: float = option(0.5, above=0, below=1, flag="--extra-share")


@dataclass(frozen=True, kw_only=True)
class Base:
    k: int = option(10, minimum=1)
    """How many."""


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    names: tuple[str, ...] = option(())
    ids: frozenset[str] | None = option(None, reads=read_ids)
    size: int = option(1024, reads=parse_bytes, default_text="1KiB")
    kind: Literal["a", "b"] = option("a")
    wrap: bool = option(True)
    inner: dict[str, int] = field(default_factory=dict)
    """No option."""
    extra: Extra | None = group(None)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Settings:
    decay: float = option(0.9, above=0, maximum=1)
    width: int | None = option(None, minimum=1)


def run(*words: object) -> Any:
    app = typer.Typer()

    def command(
        options: Options,
        base: Base,
        given: Annotated[dict[str, Any], Given(Settings(0.8))],
        is_alone: Annotated[bool, "A parameter of its own."] = False,
    ) -> None:
        typer.echo(json.dumps({**asdict(options), "base": base.k, "given": given}, default=sorted))

    app.command(cls=Command)(with_flags(command))
    ran = CliRunner().invoke(app, [str(word) for word in words])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return ran.stdout if "--help" in words else json.loads(ran.stdout)


DEFAULTS = {**asdict(Options()), "names": [], "base": 10, "given": {}}


def test_fields_without_a_flag_have_their_defaults() -> None:
    assert run() == DEFAULTS


def test_flags_become_fields(tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    ids.write_text("i1\ni2\n")
    words = ("-k", 3, "--names", "a", "--names", "b", "--ids", ids, "--size", "2KiB", "--no-wrap")
    assert run(*words, "--kind", "b") == {
        **DEFAULTS,
        "k": 3,
        "base": 3,  # groups share a flag of one name
        "names": ["a", "b"],
        "ids": ["i1", "i2"],
        "size": 2048,
        "kind": "b",
        "wrap": False,
    }


def test_an_optional_group_is_made_of_what_is_given() -> None:
    assert run("--extra", 1)["extra"] == {"path": "1", "share": 0.5}
    assert run("--extra", 1, "--extra-share", 0.2)["extra"]["share"] == 0.2
    with pytest.raises(UsageError, match="--extra-share requires --extra"):
        run("--extra-share", 0.2)


def test_the_annotation_of_a_parameter_has_its_help() -> None:
    text = " ".join(run("--help").split())
    assert "--is-alone <bool> A parameter of its own." in text
    assert "--no-is-alone" not in text


def test_given_options_are_a_mapping() -> None:
    assert run("--decay", 0.9)["given"] == {"decay": 0.9}
    assert "Default: 0.8." in " ".join(run("--help").split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-k", 0), "-k must be at least 1, not 0"),
        (("--extra", 1, "--extra-share", 1), "--extra-share must be less than 1, not 1.0"),
        (("--extra", 1, "--extra-share", 0), "--extra-share must be more than 0, not 0.0"),
        (("--decay", 2), "--decay must be at most 1, not 2.0"),
        (("--decay", "nan"), "--decay must be more than 0, not nan"),
        (("--size", "2 stones"), "is not a size"),
        (("--size", "9" * 400 + "GiB"), "is not a size"),
    ],
)
def test_values_out_of_bounds_are_refused_by_flag(words: tuple[object, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(*words)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 0}, "k must be at least 1, not 0"),
        ({"k": 2.5}, "k must be a whole number, not 2.5"),
        ({"k": True}, "k must be a whole number, not True"),
        ({"k": None}, "k must be a whole number, not None"),
        ({"kind": "c"}, "kind must be one of a, b, not 'c'"),
        ({"wrap": "yes"}, "wrap must be true or false, not 'yes'"),
    ],
)
def test_values_of_the_library_are_checked_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(**values)
    assert Options(k=np.int64(3)).k == 3


def test_meanings_are_those_of_bases_too() -> None:
    assert meanings(Options) == {"k": "How many.", "inner": "No option."}


def test_a_command_offers_what_can_be_chosen() -> None:
    assert get_args(System) == tuple(name for name, form in FORMATS.items() if form.write)
    assert get_args(EngineName) == tuple(ENGINES)
    assert get_args(Method) == tuple(METHODS)
