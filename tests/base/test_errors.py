import pytest

from sidtool.base.errors import DataError, SidtoolError, without_credentials


@pytest.mark.parametrize(
    ("shell", "python"),
    [
        ("--force replaces it", "force=True replaces it"),
        ("--no-rerank leaves it out", "rerank=False leaves it out"),
        ("--init random needs none", 'init="random" needs none'),
        ("--memory-weight 0 leaves it out", "memory_weight=0 leaves it out"),
        ("name it with --title-column", "name it with title_column"),
        ("--task item-text=1", 'task={"item-text": 1}'),
        ("--model hf://ORG/NAME, or a folder", 'model="hf://ORG/NAME", or a folder'),
        ("--order row reads them", 'order_by="row" reads them'),
        ("-o shop.zarr", "out=shop.zarr"),
        ("-o names the output", "-o names the output"),
        ("give --items FILE", "give items=FILE"),
        ("sidtool split --times", "sidtool split --times"),
        ("`sidtool split` has --a, --b, or with --c", "`sidtool split` has --a, --b, or with --c"),
        ("name it with --a, --b, or with --c", "name it with a, b, or with c"),
        (
            "make-sft --model measures; raise --max-length",
            "make-sft --model measures; raise max_length",
        ),
    ],
)
def test_a_hint_speaks_python_and_the_command_line_shows_flags(shell: str, python: str) -> None:
    error = SidtoolError("wrong", hint=shell)
    assert (error.hint, error.shell_hint, error.__notes__) == (python, shell, [python])


def test_an_error_without_a_hint_has_no_note() -> None:
    error = SidtoolError("wrong")
    assert (error.hint, error.shell_hint) == (None, None)
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/events", "s3://***@bucket/events"),
        ("https:/user:pass%2F1@host:8080/a is lost", "https:/***@host:8080/a is lost"),
        ("s3://bucket/shop@prod", "s3://bucket/shop@prod"),
        ("http://localhost:8080/a@b", "http://localhost:8080/a@b"),
        ("/data/a:b@c", "/data/a:b@c"),
    ],
)
def test_credentials_of_a_url_are_not_shown(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
    assert str(DataError(text)) == shown
