"""The flags of each command, and the keywords of its function."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer

import sidtool
from sidtool.base.errors import SidtoolError
from sidtool.base.options import keywords_of
from sidtool.cli.main import app
from tests.cli.test_docstrings import COMMANDS
from tests.cli.test_pages import page

PRINTING = {"help", "quiet", "verbose", "json", "config"}
"""What a command prints, and where its options come from: a function returns its result."""
PLANNING = {"prepare", "split", "make-sft", "merge", "rebind"}
"""Commands whose functions have dry_run, too."""
WORKERS = {"engine", "workers", "resume"}
"""Where a command runs: in a function a value says so, that of `RunOptions` for example."""
ENCODER = {"revision", "pooling", "prompt", "max_length", "dtype", "trust_remote_code"}
"""Fields of `sidtool.Encoder`."""
COLUMNS = {"id_column", "title_column"}
"""Columns of a catalog, which a function takes as a value that was read with them."""

DIFFERENCES: dict[str, set[str]] = {
    # `clean` is the function of --fix, with the two others
    "check": {"fix", "allow_losses", "force"},
    # `split_in_parts`, with PartOptions
    "split": WORKERS | {"parts"},
    # each setting of --set is a keyword; workers are for the command only
    "build-codebook": {"set", "engine", "workers"},
    # values: Encoder, ItemColumns and RunOptions
    "embed": WORKERS | ENCODER | COLUMNS | {"text_template", "force"},
    # a list is returned; of a folder `encode_folder`, with ItemColumns and RunOptions; model=
    "encode": WORKERS | COLUMNS | {"items", "out", "text_template", "force", "encoder"},
    # a decoded SID has a status
    "decode": {"strict"},
    # items= takes what read_items returns
    "compare": COLUMNS,
    # sizes=, and the values CatalogFile and CodebookFile, with an Encoder
    "import": ENCODER
    | COLUMNS
    | {"levels", "by_row", "embeddings", "encoder", "fail_under", "text_template"},
    # tokens= takes what model_tokens returns, items= a CatalogFile
    "export": COLUMNS | {"model"},
    # texts are those that read_items returns; overrides=
    "init-model": COLUMNS | {"bundle", "text_template", "set"},
    # writer=ClusterExamples
    "make-sft": WORKERS,
    # each setting of --set is a keyword; teachers=
    "train": {"set", "teacher"},
    # each setting of --set is a keyword; reward_inputs=
    "rl": {"set", "reward_input"},
    # a memory is returned; the steps before it are item_vectors, ItemContent.of, tune_similarity,
    # and Shards.beside
    "build-memory": WORKERS
    | {"out", "force", "items", "embeddings", "encoder", "content_weight"}
    | {"tune", "users", "exclude_seen", "memory_limit"},
    # requests are values, and the answers are returned; of a file recommend_folder
    "recommend": WORKERS
    | {"history", "file", "events", "user", "users", "all_users", "query"}
    | {"out", "force"},
    # serve_on_ray; token= is the token itself
    "serve": {"engine", "token_file"},
    # ranker=ClusterRanker; an evaluation has all metrics
    "evaluate": {"engine", "workers", "details", "fail_under"},
    "evaluate-lists": {"fail_under"},
    "evaluate-task": {"fail_under"},
    # a bundle is returned
    "add-items": {"out", "force"},
    "align": {"out", "force", "to"},
    # the differences are returned
    "diff": {"exit_code"},
}
"""By command the flags that are no keywords of its function; docs/api.md says what is in their
place."""

UNKNOWN = r"there is no option {0}\b"


def function_of(command: str) -> Any:
    return getattr(sidtool, COMMANDS.get(command, command.replace("-", "_")))


def refuses(function: Any, keyword: str) -> bool:
    """Whether a call says that there is no such keyword; its other arguments name no files."""
    parameters = inspect.signature(function).parameters.values()
    required = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    try:
        function(*["missing"] * len(required), **{keyword: None})
    except SidtoolError as error:
        return re.search(UNKNOWN.format(keyword), str(error)) is not None
    except Exception:
        return False  # None is no value of the option
    return False


def takes(function: Any, keyword: str) -> bool:
    parameters = inspect.signature(function).parameters
    if keyword in parameters:
        return True
    if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return False
    if function in (sidtool.train, sidtool.rl):  # which read the model before its settings
        (kind, _) = get_args(get_type_hints(function)["options"])
        return keyword in keywords_of(kind)
    assert refuses(function, "no_keyword")
    return not refuses(function, keyword)


@pytest.mark.parametrize("command", sorted({str(c.name) for c in app.registered_commands}))
def test_the_flags_of_a_command_are_keywords_of_its_function(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == "inspect":
        return
    monkeypatch.chdir(tmp_path)
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    flags = {
        max(parameter.opts, key=len).strip("-").replace("-", "_")
        for parameter in parameters
        if parameter.param_type_name == "option"
    }
    missing = {flag for flag in flags - PRINTING if not takes(function_of(command), flag)}
    if "dry_run" in flags:
        assert ("dry_run" not in missing) == (command in PLANNING)
    assert missing - {"dry_run"} == DIFFERENCES.get(command, set())
    assert list(tmp_path.iterdir()) == []


def test_the_page_lists_the_flags_that_are_no_keywords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    section = page("api.md").partition("## Flags that are no keywords")[2].partition("\n## ")[0]
    listed: dict[str, set[str]] = {}
    calls: list[ast.Call] = []
    for commands, flags, instead in re.findall(r"^\| (`.+?) \| (.+?) \| (.+) \|$", section, re.M):
        for command in re.findall(r"`([\w-]+)`", commands):
            names = {flag.replace("-", "_") for flag in re.findall(r"`--([\w-]+)`", flags)}
            listed[command] = listed.get(command, set()) | names
        for code in re.findall(r"`([^`-][^`]*\))`", instead):
            value = code if re.match(r"\w+=", code) is None else code.partition("=")[2]
            calls += [node for node in ast.walk(ast.parse(value)) if isinstance(node, ast.Call)]
    assert listed == DIFFERENCES
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id != "all"]
    assert len(named) > len(listed) / 2
    for call in named:
        function = getattr(sidtool, call.func.id)  # type: ignore[attr-defined]
        for keyword in call.keywords:
            assert takes(function, str(keyword.arg))
