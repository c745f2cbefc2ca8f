"""The recommend command, and the loading of a model, which evaluation shares."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sidtool import recommendation, registry
from sidtool.base.documents import parse_json
from sidtool.base.errors import DataError, UsageError
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import option, read_ids
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import RESULTS
from sidtool.base.records import flat
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import note, say, say_json, say_table, standard_input, warn
from sidtool.cli.terminal.pace import progress
from sidtool.data import NO_FIELDS, Fields, tables
from sidtool.integrations import cluster
from sidtool.integrations.cluster import RunOptions, WorkerOptions
from sidtool.memory.mixture import MemoryOptions
from sidtool.model import LoadedModel, ModelOptions
from sidtool.model.contract import Contract, model_folder, read_contract
from sidtool.recommendation import (
    BadRequest,
    ItemOptions,
    Outcome,
    Recommendation,
    RecommendOptions,
    Request,
)
from sidtool.recommendation.search import seen_reason
from sidtool.tokenizer.bundle import Bundle

BLOCK = 1 << 14
"""Ids that are looked up at once."""


@dataclass(frozen=True)
class Output:
    """What is recommended, and where it is written."""

    list_length: int | None = option(None, flag="--list", minimum=1, metavar="M", panel="Lists")
    """Recommend one list of M items, in the order in which the model writes them, in place of the
    best next items. Needs a model that was trained on task list."""
    candidates: tuple[str, ...] | None = option(None, reads=read_ids)
    """File of item ids: score each of them exactly, without beam search, and recommend no
    others."""
    out: Path | None = option(None, short="-o")
    """Write to this .jsonl or .parquet file; with --engine ray, to a folder of Parquet files at a
    path or URL."""
    resume: bool = option(False)
    """Continue the output of an interrupted run."""

    def __post_init__(self) -> None:
        if self.resume and self.out is None:
            raise UsageError("--resume needs -o, the output to continue")


@dataclass(frozen=True)
class RequestSource:
    """Where requests come from. Raises UsageError unless one option gives them, and for options
    that need another."""

    history: str | None = option(None)
    """Item ids of one history, oldest first: B01,B02."""
    file: str | None = option(None)
    """JSON Lines of requests {"user", "history" or "text", "allow", "deny", "fields"}, or a Parquet
    file of such rows; - is stdin, answered whenever it pauses."""
    events: Path | None = option(None, metavar="EVENTS")
    """File of events, or split folder: requests are the whole histories of its users."""
    user: tuple[str, ...] = option(())
    """User of --events; repeatable."""
    users: tuple[str, ...] | None = option(None, reads=read_ids)
    """File of users of --events, one id per line."""
    all_users: bool = option(False)
    """Recommend for every user of --events."""
    query: str | None = option(None)
    """Text to find items for; needs a model trained on query-to-sid, title-to-sid or
    description-to-sid."""
    fields: str | None = option(None, metavar="JSON")
    """Fields that the model's prompt shows, like {"user": {"age": 24}, "time": 880000000}: of
    --history, or of every request that does not have its own."""

    def __post_init__(self) -> None:
        named = [bool(self.user), self.users is not None, self.all_users]
        if self.events is None and any(named):
            raise UsageError("--user, --users and --all-users require --events")
        if [self.history, self.file, self.query, self.events].count(None) != 3:
            raise UsageError("give one of --history, --file, --query and --events")
        if self.query is not None and self.fields is not None:
            raise UsageError("--fields has no effect on --query: no prompt of texts shows fields")
        if self.events is not None and sum(named) != 1:
            raise UsageError("--events requires one of --user, --users and --all-users")

    @property
    def items(self) -> tuple[str, ...]:
        """The items of --history."""
        return tuple(filter(None, (self.history or "").split(",")))

    def shared_fields(self) -> Fields:
        """The fields of --fields. Raises UsageError."""
        if self.fields is None:
            return NO_FIELDS
        try:
            fields = Fields.from_json(parse_json(self.fields), len(self.items))
        except DataError as error:
            raise UsageError(f"--fields: {error}") from error
        except ValueError as error:
            raise UsageError(f"--fields is not JSON: {error}") from error
        if self.history is None and (fields.event or fields.times is not None):
            raise UsageError(
                "--fields has fields of events without --history, whose events they are",
                hint='a request of --file has its own "fields"',
            )
        return fields

    def requests(self, loaded: LoadedModel) -> Iterable[Request | BadRequest]:
        """The requests; those of --events have the columns that the model was made from."""
        if self.events is not None:
            users = self.users if self.users is not None else self.user or None
            columns = loaded.contract.event_columns(loaded.bundle)
            of_users = recommendation.user_requests(self.events, users, recorded=columns)
            histories = [one.history for one in of_users if isinstance(one, Request)]
            _check_histories("--events", histories, loaded.bundle)
            return of_users
        if self.file == "-":
            return recommendation.arriving_requests(standard_input().buffer)
        if self.file is not None:
            return recommendation.read_request_file(Path(self.file))
        if self.query is not None:
            return iter([Request(text=self.query)])
        _check_histories("--history", [self.items], loaded.bundle)
        return iter([Request(history=self.items)])


def load_model(
    model: str, model_options: ModelOptions, memory: MemoryOptions = MemoryOptions()
) -> LoadedModel:
    """Load a model; print a notice if another bundle is compatible but not the same."""
    loaded = model_source(model, model_options, memory).load()
    # an aligned bundle has raised a warning already
    if loaded.verdict.message and loaded.verdict.kind != "aligned":
        note(loaded.verdict.message)
    return loaded


def model_source(
    model: str, model_options: ModelOptions, memory: MemoryOptions
) -> "cluster.ModelSource":
    """The model as this process or workers load it."""
    return cluster.ModelSource(model, memory, **asdict(model_options))


@keeps_inputs()
def recommend(
    model: options.LoadedModel,
    source: RequestSource,
    choices: RecommendOptions,
    output: Output,
    memory: MemoryOptions,
    model_options: ModelOptions,
    workers: WorkerOptions,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Recommend items of the catalog, without duplicates, k whenever the filters leave k.

    A history of which the bundle has no item gets none. A request of --file that cannot be answered
    gets {"line", "error"} in its place among the JSON Lines, the others are answered, and the exit
    code is 1. `missing` of an answer is the number of items fewer than k."""
    if force and output.out is None:
        raise UsageError("--force requires -o, the output to replace")
    if output.list_length is not None:
        if choices.k != ItemOptions.k:
            raise UsageError("--list is the number of items: leave out -k")
        choices = replace(choices, k=output.list_length, list=True)
    choices = replace(choices, fields=source.shared_fields())
    if output.candidates is not None and choices.allow is not None:
        raise UsageError("--candidates is an allow list already", hint="leave out --allow")
    if workers.on_cluster:
        run = RunOptions(**asdict(workers), resume=output.resume, force=force)
        served = model_source(model, model_options, memory)
        return _recommend_by_workers(served, source.file, output, choices, run)
    if output.out is not None:
        refuse_existing(output.out, force, RESULTS)
    loaded = load_model(model, model_options, memory)
    _check_shown(choices.fields, loaded.contract, is_list=choices.list)
    requests = source.requests(loaded)
    # named by the command line: the error of one is that of the command
    is_one = source.file is None and source.users is None and not source.all_users
    outcome = Outcome()
    with progress("recommend") as reports:
        keywords: dict[str, Any] = {
            "candidates": output.candidates,
            "stop": choices.strict or is_one,
            "progress": reports.get("recommend"),
        }
        if output.out is None:
            answers = recommendation.answer_each(loaded, requests, choices, **keywords)
            for answer in outcome.count(answers):
                _say_answer(answer, loaded.bundle, json=json)
        else:
            target, resume = output.out, output.resume
            outcome = recommendation.recommend_to_file(
                loaded, requests, target, choices, resume=resume, force=force, **keywords
            )
    _report(outcome, choices, output, loaded.contract)


def _check_shown(fields: Fields, contract: Contract, *, is_list: bool) -> None:
    """Warn of fields of --fields that the model's prompt does not show; raise UsageError if it
    shows none of them."""
    prompt = contract.list_prompt if is_list else contract.history_prompt
    # by their names in a prompt, like user.age
    named = flat(fields.to_json()).keys()
    in_prompt = set() if prompt is None else flat(prompt.unknown_fields(1).to_json()).keys()
    if not named - in_prompt:
        return
    listed = ", ".join(sorted(in_prompt)) or "no fields"
    message = f"the model's prompt does not show {', '.join(sorted(named - in_prompt))} of --fields"
    if not named & in_prompt:
        raise UsageError(message, hint=f"it shows {listed}")
    warn(f"{message}: it shows {listed}")


def _check_histories(flag: str, histories: Iterable[Sequence[str]], bundle: Bundle) -> None:
    """Raise DataError if the bundle has no item of histories that have some: each answer would be
    that of a user without events."""
    filled = [items for items in histories if items]
    if not filled:
        return
    ids = chain.from_iterable(filled)
    while block := list(islice(ids, BLOCK)):
        if (bundle.items.rows(block) >= 0).any():
            return
    items = filled[0]
    active = bundle.active.tolist()
    named = next((row for row in active if bundle.items.title(row) in items), None)
    example = bundle.items.ids[next(iter(active), 0) if named is None else named]
    meaning = "" if named is None else f", the id of {bundle.items.title(named)!r}"
    which = "the history, which" if len(filled) == 1 else f"{len(filled)} histories; the first"
    raise DataError(
        f"the bundle has no item of {which} begins with {items[0][:80]!r}",
        hint=f"{flag} takes item ids, like {example}{meaning}",
    )


def _recommend_by_workers(
    model: "cluster.ModelSource",
    file: str | None,
    output: Output,
    choices: RecommendOptions,
    run: RunOptions,
) -> None:
    """Answer a folder of requests. Raises UsageError unless requests and answers are folders."""
    if file in (None, "-") or output.out is None:
        raise UsageError(
            f"--engine {run.engine} needs --file FOLDER of Parquet requests, and -o FOLDER"
        )
    if choices.list:
        raise UsageError("--list is for one process: leave out --engine")
    model = model.with_versions()
    contract = read_contract(model_folder(registry.locate_model(model.model)))
    _check_shown(choices.fields, contract, is_list=False)
    with progress("recommend") as reports:
        outcome = cluster.recommend_folder(
            model,
            str(file),
            tables.as_url(str(output.out)),
            choices,
            candidates=output.candidates,
            stop=choices.strict,
            run=replace(run, progress=reports.get("recommend")),
        )
    _report(outcome, choices, output, contract)


def _report(
    outcome: Outcome, choices: RecommendOptions, output: Output, contract: Contract
) -> None:
    """Say what was written; warn of answers with fewer than k items; fail if a request has none;
    say whether seen items were removed."""
    if output.out is not None:
        n_answered = outcome.requests - outcome.bad
        note(f"{tables.as_url(output.out)}: answers to {n_answered} requests")
    if outcome.short:
        warn(
            f"{outcome.short} of {outcome.requests} requests have fewer than {choices.k} items: "
            "filters or the catalog leave no more, or no item of the history is known"
        )
    outcome.raise_bad()
    if output.candidates is None or choices.exclude_seen is not None:
        note(seen_reason(choices.exclude_seen, contract.targets_repeat))


def _say_answer(answer: Recommendation | BadRequest, bundle: Bundle, *, json: bool) -> None:
    if json:
        return say_json(answer.to_json())
    if isinstance(answer, BadRequest):
        return say(str(answer.error))
    columns: dict[str, Iterable[object]] = {
        "": range(1, len(answer.items) + 1),
        "item": answer.items,
        "title": answer.titles,
        "SID": answer.sids,
        "score": answer.scores,
    }
    if answer.explanations is not None:
        columns["memory"] = [part.memory_share for part in answer.explanations]
        columns["because of"] = [
            ", ".join(bundle.title(item) or item for item in part.because_of)
            for part in answer.explanations
        ]
        if any(part.raised_by for part in answer.explanations):
            columns["raised by"] = [", ".join(part.raised_by) for part in answer.explanations]
    title = answer.user
    if answer.list_score is not None:
        title = f"{title or 'list'}, log-probability {answer.list_score:.4g}"
    return say_table(list(columns), list(zip(*columns.values(), strict=True)), title=title)
