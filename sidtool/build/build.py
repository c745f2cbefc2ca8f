"""From a catalog to a bundle: embed, quantize, resolve collisions, report, and keep the recipe.

Knows the order of the steps and what the recipe must record; each step's method lives in its own
room. An interrupted build leaves `OUT.partial` with the vectors that were finished, and the same
command goes on from there."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import numpy as np

from sidtool.build.sources import Way, material
from sidtool.bundle.bundle import Bundle
from sidtool.bundle.item_map import ItemMap
from sidtool.bundle.manifest import library_versions, now
from sidtool.data.digests import digest_strings
from sidtool.data.items import Items
from sidtool.data.splits import Split
from sidtool.data.vectors import VectorSource
from sidtool.embed import Encoder, embed
from sidtool.errors import DataError, SidtoolWarning, UsageError
from sidtool.output import partial_path, refuse_existing, remove, replace_dir
from sidtool.quantize import METHODS, fit
from sidtool.quantize.collisions import Policy, assign
from sidtool.quantize.fusion import Blend
from sidtool.quantize.report import codebook_report, wasted_levels
from sidtool.quantize.resumable import encode_all, fitted
from sidtool.sid import LETTERS, SPELLINGS, SidSpace, Vectors

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """How vectors become SIDs, and how SIDs are spelled. Raises UsageError for a name or an option
    that is none."""

    sizes: tuple[int, ...] = (256, 256, 256)
    method: str = "rq-kmeans"
    policy: Policy = "reassign"
    spelling: str = "openonerec"
    markers: bool = True
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the method's own, like `balanced`."""
    weights: tuple[float, ...] = ()
    """One for each source of vectors, in proportion; all equal if none are given."""
    blend: Blend = field(default_factory=Blend)
    signal: Way = "fused"
    """How co-occurrence enters, where there are interactions."""

    def __post_init__(self) -> None:
        choices = {
            "method": METHODS,
            "policy": get_args(Policy),
            "spelling": SPELLINGS,
            "signal": get_args(Way),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"no {name} {getattr(self, name)!r}", hint=f"choose from {', '.join(known)}"
                )
        if self.signal != "fused" and "pairs" not in signature(METHODS[self.method]).parameters:
            raise UsageError(
                f"method {self.method} has no contrastive loss",
                hint="rq-vae has; or --signal fused",
            )
        self._check_options()

    def _check_options(self) -> None:
        """Refuse an option before the work, not after it."""
        taken = ("vectors", "sizes", "seed", "progress", "pairs")
        known = {
            name: p.annotation for name, p in signature(METHODS[self.method]).parameters.items()
        }
        for name, value in self.options.items():
            if name in taken or name not in known:
                hint = f"it has {', '.join(name for name in known if name not in taken)}"
                raise UsageError(f"method {self.method} has no option {name!r}", hint=hint)
            if type(value) not in (known[name], *get_args(known[name])):
                raise UsageError(f"option {name} of method {self.method} cannot be {value!r}")

    def space(self, sizes: tuple[int, ...]) -> SidSpace:
        """The space of the given sizes (those planned, and an appended collision level where there
        is one)."""
        spelling = SPELLINGS[self.spelling] | ({} if self.markers else {"begin": None, "end": None})
        return SidSpace(sizes, **spelling)  # type: ignore[arg-type]


def build(
    items: Items,
    vectors: Vectors | VectorSource | Sequence[Vectors | VectorSource],
    plan: Plan,
    *,
    name: str,
    encoder: Mapping[str, Any],
    split: Split | None = None,
    work: Path | None = None,
    progress: Mapping[str, Progress] | None = None,
) -> Bundle:
    """Quantize (n, dim) float32 vectors of n items into a bundle. `encoder` is what the recipe
    records of their making.

    Several sources of vectors are fused, and with a `split` the co-occurrence of items in its
    training events is too. The vectors are read in parts where they are one source; codes that are
    finished are kept in the folder `work`. `progress` maps the stages "quantize" and "encode" to
    their reporters. A level that says little, for a few of its codes hold nearly all items, is a
    SidtoolWarning. Raises DataError if rows and items differ or the vectors cannot fill the
    codebook, UsageError if the space is too full for the collision policy."""
    plan.space(plan.sizes)  # refuses a space that cannot be spelled before the work, not after it
    tell, clock = progress or {}, Clock()
    given = material(
        items.ids,
        _sources(vectors),
        weights=plan.weights,
        blend=plan.blend,
        split=split,
        signal=plan.signal,
        seed=plan.seed,
    )
    source = given.vectors
    ids = digest_strings(items.ids)  # events are of items, so of which row each is, too
    told = {
        "plan": asdict(plan),
        "vectors": source.fingerprint,
        "ids": ids,
        "version": library_versions(),
        **given.recipe,
    }
    with clock("fit"):
        codebook = fitted(
            lambda: fit(
                source,
                plan.sizes,
                method=plan.method,
                seed=plan.seed,
                progress=tell.get("quantize"),
                **plan.options,
                **({"pairs": given.pairs} if given.pairs else {}),
            ),
            told,
            work,
        )
    with clock("encode"):
        raw = encode_all(codebook, source, folder=work, progress=tell.get("encode"))
    recorded = {
        key: value for key, value in encoder.items() if key != "libraries"
    }  # versions are not identity
    libraries = encoder.get("libraries", {})
    with clock("collisions"):
        assigned = assign(raw, source, codebook, items.ids, plan.policy)
    report = codebook_report(source, codebook, raw, assigned, seed=plan.seed) | {
        "seconds": clock.seconds
    }
    _tell_wasted(report)
    return Bundle.of(
        ItemMap.of(plan.space(assigned.space_sizes), items.ids, assigned.codes, items.titles),
        codebook.behind(given.fusion) if given.fusion else codebook,
        plan.policy,
        name=name,
        capacity=assigned.space_sizes[-1] if plan.policy == "append" else None,
        recipe={"encoder": recorded, "text_template": items.text_template, **given.recipe},
        source={"catalog": items.digest, "items": len(items.ids), **given.source},
        report=report,
        libraries=library_versions("numpy", "zarr", "scipy", *libraries),
        created=now(),
    )


def _tell_wasted(report: Mapping[str, Any]) -> None:
    for level, use in wasted_levels(report):
        warnings.warn(
            f"level {LETTERS[level]} says little: its {use['size']} codes say no more than "
            f"{use['perplexity']:.0f} "
            "evenly used ones would; smaller levels, or rq-kmeans with --balanced, spread the items",
            SidtoolWarning,
            stacklevel=3,
        )


def build_codebook(
    items: Items,
    out: Path,
    plan: Plan,
    *,
    encoder: Encoder | None = None,
    vectors: Vectors | VectorSource | Sequence[Vectors | VectorSource] | None = None,
    split: Split | None = None,
    force: bool = False,
    progress: Mapping[str, Progress] | None = None,
) -> Bundle:
    """Build a bundle from texts (by `encoder`) or from vectors that another engine made, and write
    it to `out`.

    `vectors` may be several sources, `split` adds the co-occurrence of items: see `build`.
    `progress` maps the stages "embed", "quantize" and "encode" to their reporters.
    """
    refuse_existing(out, force)
    tell, work = progress or {}, partial_path(out)
    if vectors is not None:
        facts: dict[str, Any] = {
            "vectors": "given",
            "dim": sum(source.shape[1] for source in _sources(vectors)),
        }
    elif encoder is not None:
        vectors, facts = embed(
            items.texts, encoder, cache=work / "vectors", progress=tell.get("embed")
        )
    else:
        raise DataError("neither an encoder nor vectors are given")
    name = out.name.removesuffix(".zip").removesuffix(".zarr")
    bundle = build(
        items,
        vectors,
        plan,
        name=name,
        encoder=facts,
        split=split,
        work=work / "codes",
        progress=tell,
    )
    finished = work / out.name
    bundle.save(finished, force=True)
    replace_dir(finished, out)
    remove(work)
    return Bundle.open(out)


def _sources(
    vectors: Vectors | VectorSource | Sequence[Vectors | VectorSource],
) -> Sequence[Vectors | VectorSource]:
    return [vectors] if isinstance(vectors, np.ndarray | VectorSource) else vectors


class Clock:
    """How many seconds each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Count what the block takes."""
        start = time.perf_counter()
        yield
        self.seconds[step] = round(time.perf_counter() - start, 3)
