"""The recommend command."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidtool.base.errors import DataError, UsageError
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import RESULTS
from sidtool.cli import inference, list_flags
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import progress, say, say_json, say_table, warn
from sidtool.cli.terminal.inputs import read_ids, standard_input
from sidtool.recommendation.recommend_options import RecommendOptions

if TYPE_CHECKING:
    from sidtool.data.fields.fields import Fields
    from sidtool.integrations.ray.models import ModelSource
    from sidtool.recommendation.requests import BadRequest, Outcome, Recommendation, Request


def recommend(
    model: options.Model,
    history: Annotated[
        str | None, typer.Option(help="Item ids of one history, oldest first: B01,B02.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            help='JSON Lines of requests {"user", "history" or "text", "allow", "deny", "fields"}, '
            "or a Parquet file of such rows; - is stdin, answered whenever it pauses."
        ),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="EVENTS",
            help="File of events, or split folder: requests are the whole histories of its users.",
        ),
    ] = None,
    user: Annotated[list[str] | None, typer.Option(help="User of --events; repeatable.")] = None,
    users: Annotated[
        Path | None, typer.Option(help="File of users of --events, one id per line.")
    ] = None,
    all_users: Annotated[
        bool, typer.Option("--all-users", help="Recommend for every user of --events.")
    ] = False,
    query: Annotated[
        str | None,
        typer.Option(
            help="Text to find items for; needs a model trained on query-to-sid or title-to-sid."
        ),
    ] = None,
    fields: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help='Fields that the model\'s prompt shows, like {"user": {"age": 24}, "time": '
            "880000000}: of --history, or of every request that does not have its own.",
        ),
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", help="Items per request.", show_default="10")
    ] = None,
    num_beams: inference.NumBeams = 50,
    list_: list_flags.Length = None,
    list_search: list_flags.Search = "beam",
    temperature: list_flags.Temperature = 1.0,
    seed: list_flags.Seed = 0,
    prefix_penalty: list_flags.PrefixPenalty = 0.0,
    mmr: list_flags.Mmr = 0.0,
    normalize: inference.Normalize = None,
    exclude_seen: inference.ExcludeSeen = False,
    allow: Annotated[
        Path | None, typer.Option(help="File of item ids, one per line: recommend no others.")
    ] = None,
    deny: Annotated[
        Path | None,
        typer.Option(
            help="File of item ids, one per line: never recommend these. An id that the bundle "
            "lacks is a warning."
        ),
    ] = None,
    candidates: Annotated[
        Path | None,
        typer.Option(
            help="File of item ids: score each of them exactly, without beam search, and "
            "recommend no others."
        ),
    ] = None,
    bundle: inference.OtherBundle = None,
    memory: inference.Memory = None,
    memory_weight: inference.MemoryWeight = None,
    memory_power: inference.MemoryPower = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Show the memory's share of each item and the items it is based on."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Write to this .jsonl or .parquet file; with --engine ray, to a folder of Parquet "
            "files at a path or URL.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Stop at the first request that cannot be answered, and refuse allow and deny "
            "lists with ids that the bundle lacks.",
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the output of an interrupted run.")
    ] = False,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    device: inference.Device = None,
    dtype: inference.Dtype = None,
    trust_remote_code: options.Trust = False,
    config: options.Config = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Recommend items: only items of the catalog, without duplicates, k whenever there are k.

    A request of --file that cannot be answered gets {"line", "error"} in its place among the JSON
    Lines, the others are answered, and the exit code is 1. `missing` of an answer is the number of
    items fewer than k."""
    from sidtool.model.contract.split_check import event_columns
    from sidtool.recommendation.recommendations import answer_each, recommend_to_file
    from sidtool.recommendation.requests import Outcome, user_requests

    chosen_users = _users(events, user, users, all_users)
    if engine == "ray":
        _check_for_workers(file, out, (history, query, events), list_)
    requests = _requests(history, file, query, events) if engine == "local" else ()
    if resume and out is None:
        raise UsageError("--resume needs -o, the output to continue")
    if candidates is not None and allow is not None:
        raise UsageError("--candidates is an allow list already", hint="leave out --allow")
    lists: dict[str, Any] = {"allow": _ids(allow), "deny": _ids(deny) or ()}
    flags: dict[str, Any] = {"strict": strict, "explain": explain}
    flags["fields"] = _fields(fields, history)
    if list_ is not None and k is not None:
        raise UsageError("--list is the number of items of a list", hint="leave out -k")
    flags["list"] = list_flags.list_options(
        list_, list_search, temperature, seed, prefix_penalty, mmr
    )
    n_items = next(number for number in (list_, k, 10) if number is not None)
    choices = RecommendOptions(n_items, num_beams, normalize, exclude_seen, **flags, **lists)
    # the error of a request that the command line names is that of the command
    stop = strict or not (file or users or all_users)
    shared: dict[str, Any] = {"candidates": _ids(candidates), "stop": stop}
    mixed = (memory, memory_weight, memory_power)
    if engine == "ray":
        source = inference.model_source(model, bundle, device, dtype, trust_remote_code, mixed)
        how = {"workers": workers, "resume": resume, "force": force}
        shared["stop"] = strict
        return _recommend_by_workers(source, file, out, choices, shared, how)
    if workers is not None:
        raise UsageError("--workers requires --engine ray")
    if out is not None:
        refuse_existing(out, force, RESULTS)
    loaded = inference.load_model(model, bundle, device, dtype, trust_remote_code, mixed)
    if events is not None:
        columns = event_columns(loaded.contract, loaded.bundle)
        requests = user_requests(events, chosen_users, recorded=columns)
    outcome = Outcome()
    with progress("recommend") as reports:
        shared["progress"] = reports.get("recommend")
        if out is not None:
            outcome = recommend_to_file(
                loaded, requests, out, choices, resume=resume, force=force, **shared
            )
        else:
            for answer in outcome.count(answer_each(loaded, requests, choices, **shared)):
                _say_answer(answer, json=json)
    _report(outcome, n_items)


def _check_for_workers(
    file: str | None, out: Path | None, others: tuple[object, ...], list_: int | None
) -> None:
    """Raise UsageError unless requests are a folder, and the answers go to one."""
    if file in (None, "-") or out is None or any(other is not None for other in others):
        raise UsageError("--engine ray needs --file FOLDER of Parquet requests, and -o FOLDER")
    if list_ is not None:
        raise UsageError("--list is for one process: leave out --engine")


def _recommend_by_workers(
    source: "ModelSource",
    file: str | None,
    out: Path | None,
    choices: RecommendOptions,
    shared: dict[str, Any],
    how: dict[str, Any],
) -> None:
    """Answer a folder of requests."""
    from sidtool.data.tables.locate import as_url
    from sidtool.integrations.ray.recommendations import recommend_folder
    from sidtool.integrations.ray.run import RunOptions

    with progress("recommend") as reports:
        run = RunOptions("ray", progress=reports.get("recommend"), **how)
        outcome = recommend_folder(source, str(file), as_url(str(out)), choices, run=run, **shared)
    _report(outcome, choices.k)


def _report(outcome: "Outcome", k: int) -> None:
    """Warn of answers with fewer than k items; fail if a request has none."""
    if outcome.short:
        warn(
            f"{outcome.short} of {outcome.requests} requests have fewer than {k} items: filters or "
            "the catalog leave no more"
        )
    outcome.raise_bad()


def _fields(text: str | None, history: str | None) -> "Fields":
    """The fields of --fields, for the items of --history. Raises UsageError."""
    from sidtool.base.documents import parse_json
    from sidtool.data.fields.fields import NO_FIELDS, Fields

    if text is None:
        return NO_FIELDS
    try:
        value = parse_json(text)
    except ValueError as error:
        raise UsageError(f"--fields is not JSON: {error}") from error
    try:
        fields = Fields.from_json(value, len(_items(history)))
    except DataError as error:
        raise UsageError(f"--fields: {error}") from error
    if history is None and (fields.event or fields.times is not None):
        raise UsageError(
            "--fields has fields of events without --history, whose events they are",
            hint='a request of --file has its own "fields"',
        )
    return fields


def _items(history: str | None) -> tuple[str, ...]:
    return tuple(filter(None, (history or "").split(",")))


def _ids(path: Path | None) -> tuple[str, ...] | None:
    return None if path is None else tuple(read_ids(path))


def _users(
    events: Path | None, user: list[str] | None, users: Path | None, all_users: bool
) -> tuple[str, ...] | None:
    """The users of --events, None for all. Raises UsageError unless one option names them."""
    options_of_users = [bool(user), users is not None, all_users]
    if events is None and any(options_of_users):
        raise UsageError("--user, --users and --all-users require --events")
    if events is not None and sum(options_of_users) != 1:
        raise UsageError("--events requires one of --user, --users and --all-users")
    return tuple(read_ids(users)) if users is not None else tuple(user) if user else None


def _requests(
    history: str | None, file: str | None, query: str | None, events: Path | None
) -> "Iterable[Request | BadRequest]":
    """The requests of the one option that is given; those of --events need the model's record of
    columns. Raises UsageError unless it is exactly one option."""
    from sidtool.recommendation.live import arriving_requests
    from sidtool.recommendation.requests import Request, read_request_file

    if [history, file, query, events].count(None) != 3:
        raise UsageError("give one of --history, --file, --query and --events")
    if events is not None:
        return ()
    if file == "-":
        return arriving_requests(standard_input().buffer)
    if file is not None:
        return read_request_file(Path(file))
    if query is not None:
        return iter([Request(text=query)])
    return iter([Request(history=_items(history))])


def _say_answer(answer: "Recommendation | BadRequest", *, json: bool) -> None:
    from sidtool.recommendation.requests import BadRequest

    if json:
        say_json(answer.to_json())
    elif isinstance(answer, BadRequest):
        say(str(answer.error))
    else:
        ranks = range(1, len(answer.items) + 1)
        columns: list[Iterable[object]] = [
            ranks,
            answer.items,
            answer.titles,
            answer.sids,
            answer.scores,
        ]
        names = ["", "item", "title", "SID", "score"]
        if answer.explanations is not None:
            columns.append([each.memory_share for each in answer.explanations])
            columns.append([", ".join(each.because_of) for each in answer.explanations])
            names += ["memory", "because of"]
        title = answer.user
        if answer.list_score is not None:
            title = f"{title or 'list'}, log-probability {answer.list_score:.4g}"
        say_table(names, list(zip(*columns, strict=True)), title=title)
