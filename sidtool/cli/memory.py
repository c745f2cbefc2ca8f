"""Commands for memories: build-memory, tune-memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from sidtool import evaluation, registry, tokenizer
from sidtool import memory as memories
from sidtool.base.errors import UsageError
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import check_options, option, parse_bytes
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import MEMORY
from sidtool.cli.groups import Given
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, note, say, say_json, say_table
from sidtool.cli.terminal.pace import Progress, progress
from sidtool.data import Vectors
from sidtool.data import split as splits
from sidtool.evaluation import tuning
from sidtool.evaluation.tuning import TuneMemoryOptions, TuneSimilarityOptions
from sidtool.integrations import cluster
from sidtool.integrations.cluster import ResumableWorkers
from sidtool.memory import DEFAULT, LARGEST_WEIGHT
from sidtool.recommendation.search import seen_reason
from sidtool.tokenizer.bundle import Bundle


@dataclass(frozen=True)
class VectorInputs:
    """What the vectors of a bundle's items are read from, or made of. Raises UsageError for two
    sources."""

    items: Path | None = option(None)
    """Catalog of the bundle's items. Its texts, encoded by the bundle's encoder, add similarity by
    content, also to items without events."""
    encoder: str | None = option(None)
    """Present location of the bundle's encoder, if it moved."""
    embeddings: tuple[Path, ...] = option(())
    """In place of --items: vectors of the bundle's items, once per source."""

    def __post_init__(self) -> None:
        if self.embeddings and (self.items is not None or self.encoder is not None):
            raise UsageError("give either --embeddings, or --items and --encoder")
        if self.encoder is not None and self.items is None:
            raise UsageError("--encoder requires --items")

    @property
    def is_given(self) -> bool:
        """Whether there is a source."""
        return bool(self.embeddings) or self.items is not None

    def check(self, bundle: Bundle) -> None:
        """Raise what `read` would raise before it reads or makes vectors."""
        tokenizer.check_item_vectors(
            bundle, self.items, embeddings=self.embeddings, model=self.encoder
        )

    def read(self, bundle: Bundle, report: Progress | None) -> Vectors | None:
        """The vectors of the items, of files or by their texts; None without a source."""
        if not self.is_given:
            return None
        return tokenizer.item_vectors(
            bundle, self.items, embeddings=self.embeddings, model=self.encoder, progress=report
        )


@dataclass(frozen=True)
class Building:
    """How a memory is built. Raises UsageError for options that exclude one another."""

    earlier: str | None = option(None, metavar="MEMORY")
    """A memory whose settings and content are used; pairs are counted anew."""
    content_weight: float | None = option(None, minimum=0, maximum=LARGEST_WEIGHT)
    """Weight of similarity by content: 0.8 with --items or --embeddings, else 0. If given without
    them, the items' codes are compared, which is less exact."""
    tune: bool = option(False)
    """Choose the settings that are not given on validation users, by NDCG@10."""
    memory_limit: int | None = option(None, reads=parse_bytes, metavar="SIZE")
    """Memory for pairs, like 4GiB: more than fits is put into files beside the output. Events and
    ids need more on top. Default: no limit."""
    threads: int | None = option(None, minimum=1)
    """Threads; default: one per core. The memory is the same."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.tune and self.earlier is not None:
            raise UsageError("--tune chooses other settings than those of the --earlier memory")
        if self.tune and self.memory_limit is not None:
            raise UsageError("--tune holds all pairs in memory: it takes no --memory-limit")

    @contextmanager
    def counter(
        self, events: splits.Split | splits.SplitManifest, out: Path
    ) -> Iterator[memories.SplitPairs]:
        """What counts pairs in this process, within the memory limit in files beside the output."""
        limit = self.memory_limit
        with nullcontext() if limit is None else memories.Shards.beside(out, limit) as files:
            yield memories.SplitPairs(events, files, self.threads)


@keeps_inputs("a memory")
def build_memory(
    split: options.Split,
    bundle: options.Bundle,
    out: options.Out,
    settings: Annotated[dict[str, Any], Given(DEFAULT)],
    search: TuneSimilarityOptions,
    source: VectorInputs,
    building: Building,
    workers: ResumableWorkers = ResumableWorkers(),
    writing: options.Writing = options.Writing(),
) -> None:
    """Build a memory: which items co-occur in the training events of a split."""
    refuse_existing(out, writing.force, MEMORY)
    _check_building(building, search, workers)
    previous = None if building.earlier is None else registry.open_memory(building.earlier)
    opened = registry.open_source(bundle)
    events: splits.Split | splits.SplitManifest
    if workers.on_cluster:
        events = cluster.parts_manifest(split)
    else:
        events = splits.open_split(split, recorded=opened.manifest.made_from.event_columns)
    opened.check_split("the memory", events.reference)
    if previous is not None:
        previous.manifest.check_choice(events.reference)
    if workers.on_cluster or writing.dry_run:  # what is refused starts no cluster
        source.check(opened)
        if previous is not None and not source.is_given and building.content_weight != 0:
            previous.manifest.check_vectors(opened.identity, are_given=False)
        if building.content_weight:
            opened.require_codebook()
    if writing.dry_run:
        return _say_plan(events, opened, out, settings, building, writing)
    with ExitStack() as works:
        reports = works.enter_context(progress("embed", "build-memory", "tune"))
        counter: cluster.ClusterPairs | memories.SplitPairs
        if workers.on_cluster:
            run = cluster.RunOptions(**asdict(workers), progress=reports.get("build-memory"))
            counter = works.enter_context(cluster.ClusterPairs.opened(split, opened, out, run))
        else:
            counter = works.enter_context(building.counter(events, out))
        weight = building.content_weight
        vectors = source.read(opened, reports.get("embed"))
        content = memories.content_of(opened, vectors, weight, previous, counter.nearest_items)
        tuned_on = None
        if building.tune:
            fixed = settings if weight is None else {**settings, "content_weight": weight}
            search = replace(search, fixed=fixed)
            tuned = tuning.tune_similarity(
                events, opened, content, search, counter=counter, progress=reports.get("tune")
            )
            _note_tuned(tuned, seen_reason(search.exclude_seen, events.reference.targets_repeat))
            settings, content, tuned_on = tuned.settings.to_json(), tuned.content, tuned.users
        built = memories.build_memory(
            events,
            opened,
            earlier=previous,
            content=content,
            tuned_on=tuned_on,
            counter=counter,
            **settings,
        )
        built.save(out, force=writing.force, threads=building.threads)
    manifest = built.manifest
    writing.say(
        {"memory": str(out)} | manifest.to_json(),
        f"{out}: {len(built.arrays['neighbors/item'])} neighbors of {manifest.items} items, from "
        f"{manifest.train_events} training events of split {manifest.split}, {built.digest}",
    )
    return next_step("sidtool tune-memory MODEL {split} {out} -o OUT", split=split, out=out)


@keeps_inputs("a model")
def tune_memory(
    model: options.Model,
    split: options.Split,
    memory: Annotated[str, "A memory of build-memory, or URL/NAME@VERSION."],
    out: options.Out,
    search: TuneMemoryOptions,
    writing: options.Writing = options.Writing(),
) -> None:
    """Choose the weight and power of a memory on validation users, fit a re-ranker to them, and
    bind them to a copy of a model."""
    opened = registry.open_memory(memory)
    events = evaluation.open_model_split(model, split)
    if writing.dry_run:
        examples = tuning.plan_tune_memory(model, events, opened, out, search, force=writing.force)
        return writing.plan(
            f"would bind memory {opened.digest[:12]} to a copy of {model} at {out}, with the "
            f"weight and power that are best on {len(examples)} validation examples",
            model=str(out),
            memory=opened.digest,
            examples=len(examples),
            num_beams=search.num_beams,
        )
    with progress("tune-memory") as reports:
        report = reports.get("tune-memory")
        binding = tuning.tune_memory(
            model, events, opened, out, search, force=writing.force, progress=report
        )
    seen = seen_reason(search.exclude_seen, events.reference.targets_repeat)
    reranker = binding.reranker
    if writing.json:
        values = binding.to_json()
        values["reranker"] = None if reranker is None else reranker.digest  # not its weights
        return say_json({"model": str(out)} | values | {"seen": seen})
    # a count beside metrics would leave these no decimals
    metrics = {name: value for name, value in binding.validation.items() if name != "users"}
    rows = [("users", int(binding.validation["users"])), *metrics.items()]
    say_table(["", ""], rows, title="validation")
    weight = f"weight {binding.weight:g}" if binding.gate is None else "weight by the gate"
    order = "no re-ranker" if reranker is None else f"re-ranker {reranker.digest[:12]}"
    say(f"{out}: {weight}, power {binding.power:g}, memory {binding.digest[:12]}, {order}; {seen}")
    return next_step("sidtool evaluate {out} {split}", out=out, split=split)


def _check_building(
    building: Building, search: TuneSimilarityOptions, workers: ResumableWorkers
) -> None:
    """Raise UsageError for options that are for other workers, or for tuning alone."""
    for flag, value in (("--memory-limit", building.memory_limit), ("--threads", building.threads)):
        if workers.on_cluster and value is not None:
            raise UsageError(f"{flag} is for one process: leave out --engine")
    if not building.tune and search != TuneSimilarityOptions():
        raise UsageError("--users and --exclude-seen require --tune")


def _say_plan(
    split: "splits.Split | splits.SplitManifest",
    bundle: Bundle,
    out: Path,
    settings: dict[str, Any],
    building: Building,
    writing: options.Writing,
) -> None:
    """How much a memory would be built from."""
    counts = split.counts
    others = "the defaults" if building.earlier is None else f"the settings of {building.earlier}"
    others = "tuned settings" if building.tune else others
    text = ", ".join(f"{name} {value}" for name, value in settings.items()) or others
    writing.plan(
        f"would build a memory of {len(bundle.items)} items from {counts.train_events} "
        f"training events of {counts.users} users, with {text}, at {out}",
        memory=str(out),
        bundle=bundle.identity.digest,
        split=split.reference.digest,
        items=len(bundle.items),
        users=counts.users,
        train_events=counts.train_events,
        settings=settings,
    )


def _note_tuned(tuned: tuning.TunedSimilarity, seen: str) -> None:
    """The settings that are best on validation users."""
    weight = 0 if tuned.content is None else tuned.content.settings.weight
    settings = {**tuned.settings.to_json(), "content_weight": weight}
    values = ", ".join(f"{name} {value}" for name, value in settings.items())
    note(
        f"{values}: NDCG@10 {tuned.ndcg:.4f} on {tuned.users} validation examples, with the "
        f"defaults {tuned.start_ndcg:.4f}; {seen}"
    )
