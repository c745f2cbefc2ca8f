"""The commands that ask a model: recommend and evaluate."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from sidtool.cli import options
from sidtool.cli.console import next_step, note, progress, say_json, say_table, say_table_aside
from sidtool.cli.evaluate_task import evaluate_task, say_task
from sidtool.cli.inputs import read_ids
from sidtool.errors import DataError, UsageError

Width = Annotated[int, typer.Option(help="Beams: how many partial SIDs are kept at each level.")]
ExcludeSeen = Annotated[
    bool, typer.Option("--exclude-seen", help="Never give an item of the history.")
]
Device = Annotated[
    str | None, typer.Option(help="Where the model runs: cpu, cuda; the GPU where there is one.")
]
Dtype = Annotated[
    str | None, typer.Option(help="Precision it runs in: float32, bfloat16, float16.")
]
Swap = Annotated[
    str | None,
    typer.Option("--bundle", help="A newer bundle in place of the model's own, if compatible."),
]


def recommend(
    model: options.Model,
    history: Annotated[
        str | None, typer.Option(help="Item ids of one history, oldest first: B01,B02.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            help='JSON Lines of requests {"user", "history" or "text", "allow", "deny"}; - is '
            "stdin.",
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="What is looked for, in words: for models that learned query- or title-to-sid."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Items for each request.")] = 10,
    width: Width = 50,
    normalize: Annotated[
        str | None,
        typer.Option(
            help="Scores over the codes of a level, those of them that the catalog goes on with "
            "(trie), or the whole"
            " vocabulary, as `generate` has them; if not given, as the model was trained."
        ),
    ] = None,
    exclude_seen: ExcludeSeen = False,
    allow: Annotated[
        Path | None, typer.Option(help="File of item ids, a line each: no others are given.")
    ] = None,
    deny: Annotated[
        Path | None, typer.Option(help="File of item ids that are never given.")
    ] = None,
    candidates: Annotated[
        Path | None,
        typer.Option(
            help="File of item ids that are scored exactly, each of them, without a beam."
        ),
    ] = None,
    bundle: Swap = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write JSON Lines to this file.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a killed run left the output.")
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: options.Trust = False,
    config: options.Config = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Recommend items to users: only items of the catalog, no duplicates, k whenever there are k."""
    from sidtool.recommend.recommend import Request, read_requests, score_items
    from sidtool.recommend.recommend import recommend as ask

    if [history, file, text].count(None) != 2:
        raise UsageError("give either --history or --file or --text")
    if resume and out is None:
        raise UsageError("--resume needs -o, the output to go on with")
    if candidates is not None and allow is not None:
        raise UsageError("--candidates is an allow list already", hint="leave --allow out")
    if normalize not in (None, "level", "vocabulary", "trie"):
        raise UsageError(f"scores are normalized over level, trie or vocabulary, not {normalize!r}")
    with _lines(file) as lines, _sink(out, resume, force) as (sink, done):
        served = _load(model, bundle, device, dtype, trust_remote_code)
        one = Request(history=tuple(filter(None, (history or "").split(","))), text=text)
        requests = read_requests(lines) if file is not None else iter([one])
        with progress("recommend") as report:
            told, denied, stream = (
                report.get("recommend"),
                _ids(deny) or (),
                islice(requests, done, None),
            )
            shared: dict[str, Any] = {"k": k, "normalize": normalize, "exclude_seen": exclude_seen}
            if candidates is not None:
                answers = score_items(
                    served, stream, _ids(candidates) or (), deny=denied, progress=told, **shared
                )
            else:
                allowed = _ids(allow)
                answers = ask(
                    served, stream, width=width, allow=allowed, deny=denied, progress=told, **shared
                )
            for answer in answers:
                if sink is not None or json:
                    say_json(answer.to_json(), to=sink)
                else:
                    rows = zip(
                        range(1, k + 1),
                        answer.items,
                        answer.titles,
                        answer.sids,
                        answer.scores,
                        strict=False,
                    )
                    say_table(["", "item", "title", "SID", "score"], list(rows), title=answer.user)


def evaluate(
    model: options.Model,
    test: Annotated[
        Path | None,
        typer.Argument(
            help="Test users that make-sft wrote; the training events lie beside. With --task "
            "also rows."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Measure this task in place of recommending: one of make-sft's."),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(help="Catalog whose items a task asks about; else the bundle's titles."),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="File of item ids, a line each: a task asks about these alone."),
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="Catalog column that item-text tells.")
    ] = None,
    queries: options.Queries = None,
    query_text: options.QueryText = None,
    id_column: Annotated[
        str | None, typer.Option(help="Column of item ids in the catalog.")
    ] = None,
    title_column: Annotated[str | None, typer.Option(help="Column of titles.")] = None,
    events: Annotated[
        Path | None, typer.Option(help="Training events, if not those beside the test users.")
    ] = None,
    width: Width = 50,
    exclude_seen: ExcludeSeen = False,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Ask only so many: users evenly spread over the file, or questions of a task "
            "at random."
        ),
    ] = None,
    minimum: Annotated[
        list[str] | None,
        typer.Option(
            "--min",
            envvar="SIDTOOL_EVALUATE_MIN",
            help="Least value, like ndcg@10=0.03: exit 3 below it.",
        ),
    ] = None,
    bundle: Swap = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: options.Trust = False,
    seed: options.Seed = 0,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Measure a model on held-out users over the full catalog, beside popularity and item-kNN.

    With --task, measure how well it does one task: exact and prefix accuracy and retrieval where
    the answer is a SID, exact match, token F1 and perplexity where it is a text."""
    from sidtool.cli.models import numbers
    from sidtool.data.examples import read_events, read_examples
    from sidtool.evaluate.metrics import check_names, metric_names
    from sidtool.evaluate.report import check
    from sidtool.evaluate.report import evaluate as measure

    minima = numbers(minimum, option="--min")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit is 1 or more, not {limit}")
    of_tasks = {
        "--items": items,
        "--held-out": held_out,
        "--field": field or None,
        "--queries": queries,
        "--query-text": query_text,
        "--id-column": id_column,
        "--title-column": title_column,
    }
    of_recommending = {"--events": events, "--exclude-seen": exclude_seen or None}
    if task is None:
        _refuse_idle(of_tasks, "without --task")
    else:
        _refuse_idle(of_recommending, "with --task")
    if width < 1:
        raise UsageError(f"--width is 1 or more, not {width}")
    if task is not None:
        measured = evaluate_task(
            _load(model, bundle, device, dtype, trust_remote_code),
            task,
            test,
            items,
            only=_ids(held_out),
            field=field,
            queries=queries,
            query_text=query_text,
            columns={"id_column": id_column, "title_column": title_column},
            limit=limit,
            width=width,
            seed=seed,
        )
        if json:
            say_json(measured.to_json())
        say_task(measured, aside=json)
        return check(measured, minima)
    if test is None:
        raise UsageError(
            "there is nothing to measure", hint="give the test users that make-sft wrote, or --task"
        )
    check_names(minima, metric_names())
    examples = list(read_examples(test))
    if limit is not None and limit < len(
        examples
    ):  # the first of a file may be the oldest, or an alphabet's
        examples = [examples[at * len(examples) // limit] for at in range(limit)]
    if events is not None and not events.exists():
        raise DataError(f"no training events at {events}")
    beside = events or test.with_name(
        test.name.replace("test", "events").replace("valid", "events")
    )
    sequences = list(read_events(beside)) if beside != test and beside.exists() else None
    if sequences is None:
        where = "for these questions (--events names them)" if beside == test else f"at {beside}"
        note(f"[yellow]no training events {where}: no baselines and no slices[/]")
    served = _load(model, bundle, device, dtype, trust_remote_code)
    with progress("evaluate") as report:
        found = measure(
            served,
            examples,
            sequences,
            width=width,
            exclude_seen=exclude_seen,
            seed=seed,
            progress=report.get("evaluate"),
        )
    value = found.to_json()
    if value["settings"]["width"] != width:
        note(
            f"[yellow]{value['settings']['width']} beams in place of {width}: as many as the "
            "largest cut-off[/]"
        )
    if json:
        say_json(value)
    _say_evaluation(value, aside=json)
    check(found, minima)
    return next_step(f"sidtool recommend {model} --history ITEM,ITEM -k 10")


def _load(
    model: Path, bundle: str | None, device: str | None, dtype: str | None, trust: bool
) -> Any:
    from sidtool.model.load import load_model_folder
    from sidtool.registry.references import open_bundle

    served = load_model_folder(
        model,
        bundle=open_bundle(bundle) if bundle else None,
        device=device,
        dtype=dtype,
        trust_remote_code=trust,
    )
    if served.verdict.message and served.verdict.kind != "aligned":  # that one is a warning already
        note(served.verdict.message)
    return served


def _refuse_idle(options: dict[str, Any], where: str) -> None:
    """Raise UsageError for an option that was given and would change nothing."""
    if given := [name for name, value in options.items() if value is not None]:
        raise UsageError(f"{given[0]} means nothing {where}")


@contextmanager
def _lines(file: str | None) -> Iterator[IO[str]]:
    if file is None or file == "-":
        yield sys.stdin
        return
    path = Path(file)
    if not path.is_file():
        raise DataError(f"no requests at {path}")
    with path.open(
        encoding="utf-8", errors="surrogateescape"
    ) as stream:  # read_requests names the line
        yield stream


@contextmanager
def _sink(out: Path | None, resume: bool, force: bool) -> Iterator[tuple[IO[str] | None, int]]:
    """Where JSON Lines go, and how many a killed run wrote: they gather in OUT.partial until the
    last is there."""
    from sidtool.output import partial_path, refuse_existing
    from sidtool.recommend.recommend import finished_lines

    if out is None:
        yield None, 0
        return
    refuse_existing(out, force)
    partial = partial_path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    done = finished_lines(partial) if resume else 0
    with partial.open("a" if resume else "w", encoding="utf-8") as stream:
        yield stream, done
    partial.replace(out)


def _ids(path: Path | None) -> list[str] | None:
    return None if path is None else read_ids(path)


def _say_evaluation(value: dict[str, Any], *, aside: bool) -> None:
    """The table of an evaluation; on stderr where stdout holds the JSON."""
    names = [
        f"{kind}@{k}"
        for kind in ("hr", "ndcg", "mrr")
        for k in (1, 5, 10, 20, 50)
        if f"{kind}@{k}" in value["metrics"]
    ]
    systems = {
        "model": value["metrics"],
        **value["baselines"],
        "model, SID level": value["sid_level"],
    }
    rows: list[list[object]] = [
        [name, *(metrics[name] for metrics in systems.values())] for name in names
    ]
    for row, name in zip(rows, names, strict=True):
        low, high = value["ci"][name]
        row.append(f"{low:.4f} to {high:.4f}")
    table = say_table_aside if aside else say_table
    columns = ["", *systems, "95% interval of the model"]
    table(columns, rows, title=f"{value['n']} examples, full ranking, item level")
