"""Where a service finds its model, bundle and memory, which versions of them are there now, and
what is in use: one value that is replaced as a whole."""

import hashlib
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self

from sidtool.base.checkpoint import MAX_JSON, is_hub_url
from sidtool.base.errors import DataError, RefusedError, UsageError
from sidtool.base.storage import Storage
from sidtool.model import LoadedModel, check_model_folder, load_model_folder, with_bundle
from sidtool.model.contract import targets_repeat
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.recommender import Recommender
from sidtool.recommendation.requests import BadRequest, Request
from sidtool.recommendation.search.search_options import seen_reason
from sidtool.recommendation.serve.bodies import Choices
from sidtool.recommendation.serve.serve_options import ServeOptions
from sidtool.registry import (
    ROOTS,
    Kind,
    VersionRecord,
    locate,
    located,
    open_bundle,
    pull,
    split_reference,
)
from sidtool.tokenizer.bundle import MAX_ROOT_BYTES, Bundle

_LIMITS: Mapping[Kind, int] = {
    "model": MAX_JSON,
    "bundle": MAX_ROOT_BYTES,
    "memory": MAX_ROOT_BYTES,
}
"""Bytes of the largest root document of each kind."""


@dataclass(frozen=True)
class Version:
    """What is at the locations of a service: the SHA-256 (hex) of each root document, which leads
    to those of all other objects. Empty for what is not there, or cannot change."""

    model: str
    bundle: str = ""
    memory: str = ""


@dataclass(frozen=True)
class Sources:
    """The locations of a service, and the folder for copies of published models."""

    options: ServeOptions
    copies: Path

    def version(self) -> Version:
        """What is at the locations now; reads the root documents only.

        Raises DataError if one of them cannot be read or is of another kind."""
        options = self.options
        memory = options.memory.location
        return Version(
            "" if is_hub_url(options.model) else _root_digest(options.model, "model"),
            "" if options.bundle is None else _root_digest(options.bundle, "bundle"),
            "" if memory is None else _root_digest(str(memory), "memory"),
        )

    def check_unchanged(self, version: Version) -> None:
        """Raise DataError unless this version is still there after it was read: a writer that came
        between would give it the digests of another. Raises as `version`."""
        if self.version() != version:
            raise DataError(
                "the model, bundle or memory was replaced while it was read", hint="start it again"
            )

    def check(self) -> None:
        """Check that everything is there, and that model and bundle fit together; reads no
        weights. Raises as `version` and `load`."""
        self.version()
        check_model_folder(self._model_folder(), self._bundle())

    def load(self) -> LoadedModel:
        """Load everything. Raises what `load_model_folder` and `open_bundle` raise."""
        options = self.options
        return load_model_folder(
            self._model_folder(),
            bundle=self._bundle(),
            device=options.device,
            dtype=options.dtype,
            trust_remote_code=options.trust_remote_code,
            memory=located(options.memory),
        )

    def reload(self, loaded: LoadedModel, old: Version, new: Version) -> LoadedModel:
        """What is there now, with the network of `loaded` if only bundle or memory changed, after
        the checks of `load`. Raises as `load`."""
        if new.model != old.model:
            return self.load()
        return with_bundle(
            loaded, self._model_folder(), self._bundle(), located(self.options.memory)
        )

    def _bundle(self) -> Bundle | None:
        return None if self.options.bundle is None else open_bundle(self.options.bundle)

    def _model_folder(self) -> str | Path:
        """The folder or `hf://` location of the model; a published one of a remote registry is
        copied."""
        model = self.options.model
        if is_hub_url(model):
            return model
        location, record = _located(model, "model")
        if record is None or "://" not in location:
            return Path(location)
        copy = self.copies / record.root
        if not copy.exists():
            # the version, since the tag may have moved
            pull(f"{split_reference(model)[0]}@{record.version}", copy)
        return copy

    def remove_copies(self, version: Version) -> None:
        """Remove the copies of models that are not this version: what they have is in memory."""
        if self.copies.is_dir():
            for path in self.copies.iterdir():
                if path.name != version.model:
                    shutil.rmtree(path, ignore_errors=True)


def _root_digest(reference: str, kind: Kind) -> str:
    """SHA-256 (hex) of the root document of what a reference or location names."""
    location, record = _located(reference, kind)
    if record is not None:
        return record.root
    root = Storage(location).read(ROOTS[kind], limit=_LIMITS[kind])
    if root is None:
        hints = {"model": "sidtool serve MODEL, the folder of extend-model, train or rl"}
        raise DataError(f"there is no {kind} at {location}", hint=hints.get(kind))
    return hashlib.sha256(root).hexdigest()


def _located(reference: str, kind: Kind) -> tuple[str, VersionRecord | None]:
    """The location of a model, bundle or memory. Raises DataError if it is published as another
    kind."""
    location, record = locate(reference)
    if record is not None and record.kind != kind:
        raise UsageError(f"{reference} is a {record.kind}, not a {kind}")
    return location, record


MAX_RECOMMENDERS = 32
"""Combinations of options, and lists of candidates, that are kept."""


@dataclass(frozen=True, eq=False)
class Served:
    """A loaded model in use. All arrays of its bundle are in memory, so that files which are
    replaced later do not matter."""

    loaded: LoadedModel
    version: Version
    defaults: RecommendOptions
    base: Recommender
    """What answers requests without options of their own."""
    _recommenders: OrderedDict[Choices, Recommender] = field(default_factory=OrderedDict)

    @classmethod
    def of(cls, loaded: LoadedModel, version: Version, defaults: RecommendOptions) -> Self:
        """Read the bundle, and look up the lists of all requests. Raises as `Recommender.of`."""
        bundle = loaded.bundle
        _ = bundle.codebook  # /v1/encode reads it
        bundle.items.rows(["an id"])  # reads the index
        if len(bundle):
            bundle.items.title(0)
        return cls(loaded, version, defaults, Recommender.of(loaded, defaults, None))

    @property
    def device(self) -> str:
        """The kind of device that the model is on, such as "cpu"."""
        return str(self.loaded.model.device.type)

    @property
    def seen(self) -> str:
        """Whether seen items are recommended by default, and why."""
        return seen_reason(self.defaults.exclude_seen, targets_repeat(self.loaded.contract))

    def recommender(self, choices: Choices) -> Recommender:
        """What answers requests with these options; the model's thread is the only caller.

        Raises UsageError for options that the model does not support, DataError for candidates
        that the bundle lacks."""
        if choices in self._recommenders:
            self._recommenders.move_to_end(choices)
            return self._recommenders[choices]
        options = choices.options(self.defaults)
        if options.list:
            made = Recommender.of(self.loaded, options, None)  # lists have a prompt of their own
        elif choices.candidates is None:
            made = self.base.with_options(options)
        else:
            session = self.base.session
            made = Recommender.of(self.loaded, options, choices.candidates, session)
        self._recommenders[choices] = made
        while len(self._recommenders) > MAX_RECOMMENDERS:
            self._recommenders.popitem(last=False)
        return made

    def tree_tokens(self, choices: Choices) -> int:
        """Tokens of what grows behind the prompt of a request with these options."""
        trie = self.base.session.trie
        if choices.candidates is not None:
            return len(choices.candidates) * trie.levels
        options = self.recommender(choices).options
        if options.list:
            return options.num_beams * options.k * trie.levels
        beams = min(max(options.num_beams, options.k), trie.n_leaves)
        return beams * (trie.levels - 1)

    def warm_up(self) -> None:
        """Answer one request, so that what is made at first use exists. Raises RefusedError if the
        model cannot answer at all."""
        contract = self.loaded.contract
        prompt = contract.history_prompt
        history = tuple(islice(self.loaded.bundle.items.ids, 1))
        request = Request(history=history)
        if prompt is None and contract.text_prompt is not None:
            request = Request(text="a text")
        elif prompt is not None and prompt.shows_fields:
            request = Request(history=history, fields=prompt.unknown_fields(len(history)))
        (answer,) = self.base.answer([request])
        if isinstance(answer, BadRequest):
            raise RefusedError(f"the model cannot answer: {answer.error}")

    def to_json(self) -> dict[str, Any]:
        """What is served, for /readyz."""
        bundle = self.loaded.bundle
        memory = self.loaded.memory
        return {
            "model": self.version.model,
            "bundle": bundle.digest,
            "bundle_version": bundle.manifest.version,
            "items": len(bundle),
            "compatibility": self.loaded.verdict.kind,
            "memory": None if memory is None else memory.memory.digest,
            "exclude_seen": self.base.options.exclude_seen,
            "seen": self.seen,
        }
