"""A map with the codebook that made it: a bundle that encodes new items.

The codebook must give back the map: the share of items whose SID it gives for their vectors is
measured and recorded. It is below 1 where the other system resolved collisions or balanced codes.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import file_digest
from sidtool.base.errors import (
    CompatibilityError,
    DataError,
    MissingPackageError,
    SidtoolWarning,
    ThresholdError,
    UsageError,
)
from sidtool.base.hub import HubAccess, download, is_hub_url
from sidtool.base.options import check_options, group, option
from sidtool.base.records import JsonRecord
from sidtool.data import read_vectors, rows_in, template_columns
from sidtool.integrations.formats.codebooks.layouts import ForeignCodebook, read_codebook
from sidtool.integrations.formats.maps import sorted_active_rows
from sidtool.tokenizer.bundle import Bundle, ItemMap
from sidtool.tokenizer.codes import Policy
from sidtool.tokenizer.encoder import Encoder, load_encoder
from sidtool.tokenizer.quantize import Codebook
from sidtool.tokenizer.sid import SidSpace

LEAST_SHARE = 0.5
"""Least share of items whose SID the codebook must give back, by default."""
RECORD = "encoded"
"""The key of a bundle's source that holds `Encoded`."""


@dataclass(frozen=True)
class CodebookFile:
    """A codebook file of another system, and where its vectors come from. Raises UsageError for
    options without vectors, and for a text template that is none."""

    path: str | Path = option(flag="--codebook", metavar="FILE", panel="Codebook")
    """The codebook of the map: model.pt of OpenOneRec, .pth of MiniOneRec, LC-Rec or LETTER,
    codebooks .npz of MiniOneRec, .ckpt of GRID. Only tensors are read."""
    embeddings: str | Path | None = option(None, panel="Codebook")
    """Vectors of the items: measures for which share of them the codebook gives the map's SID."""
    by_row: bool = option(False, panel="Codebook")
    """Accept vectors without ids: row i is that of item i of the catalog, or of the ids in
    order."""
    encoder: Encoder | None = group(None)
    """The encoder of the vectors, recorded for add-items; None: not known, unless the system has
    only one."""
    text_template: str | None = option(None, panel="Codebook")
    """Text of an item that the encoder reads, like "{title} {description}"."""
    fail_under: float = option(LEAST_SHARE, minimum=0, maximum=1, panel="Codebook")
    """Exit 3 if the codebook gives back a smaller share of the map."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.text_template:  # an empty one makes texts of ids
            template_columns(self.text_template)  # raises
        for name in ("by_row", "fail_under"):
            if self.embeddings is None and getattr(self, name) != getattr(CodebookFile, name):
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} requires --embeddings")


@dataclass(frozen=True)
class Encoded(JsonRecord):
    """How many items of a map have the SID that its codebook gives for their vectors."""

    items: int
    """items with a vector"""
    equal: tuple[int, ...]
    """items whose first 1, 2 ... codes are equal"""

    @property
    def share(self) -> float:
        """The share of items with equal codes in all levels of the codebook."""
        return self.equal[-1] / self.items


def encoded_share(bundle: Bundle) -> Encoded | None:
    """What `import` measured; None if it had no vectors."""
    value = bundle.manifest.source.get(RECORD)
    return None if value is None else Encoded.from_json(value)


def with_codebook(
    bundle: Bundle,
    source: CodebookFile,
    *,
    sizes: tuple[int, ...] | None,
    catalog_ids: Sequence[str] | None,
) -> Bundle:
    """The bundle of a map, with the codebook of a file and the recipe of its vectors.

    `sizes` are level sizes that the user gave, `catalog_ids` the order of rows without ids. Raises
    UsageError if nothing says where vectors come from, CompatibilityError if map, codebook and
    encoder do not fit together, ThresholdError if the codebook gives back too few SIDs.
    """
    path = Path(source.path)
    foreign = read_codebook(path)
    encoder = source.encoder
    if encoder is None and foreign.encoder is not None:
        encoder = Encoder(foreign.encoder)
    if encoder is None and source.embeddings is None:
        raise UsageError(
            f"the encoder of {path} is not known, so no new item could be encoded",
            hint="--encoder MODEL, with its --pooling and --prompt; or --embeddings FILE",
        )
    space, codebook = _fitted(bundle, path, foreign, sizes)
    made_from = {
        **bundle.manifest.source,
        "codebook": file_digest(path),
        "codebook_layout": foreign.layout,
    }
    if source.embeddings is not None:
        made_from[RECORD] = _measure(bundle, codebook, source, catalog_ids).to_json()
    recipe = {
        "encoder": _encoder_record(encoder, codebook, path),
        "text_template": source.text_template,
    }
    if source.embeddings is None:
        warnings.warn(
            f"whether {path} gives back the map is not measured: --embeddings FILE, vectors of its "
            "items, does it",
            SidtoolWarning,
            stacklevel=3,
        )
    policy: Policy = bundle.manifest.collisions.policy
    if space.levels > len(codebook.levels):
        policy = "append"
    elif codebook.params.normalize_residuals:
        # free SIDs are searched by distances to sums of centroids, which such residuals have not
        policy = "allow"
    items = bundle.items
    titles = None if items.titles is None else list(items.titles)
    return Bundle.of(
        ItemMap.of(space, list(items.ids), items.codes, titles),
        codebook,
        policy,
        name=bundle.manifest.name,
        recipe=recipe,
        source=made_from,
        libraries=bundle.manifest.libraries,
        created=bundle.manifest.created,
    )


def _fitted(
    bundle: Bundle, path: Path, foreign: ForeignCodebook, sizes: tuple[int, ...] | None
) -> tuple[SidSpace, Codebook]:
    """The space of the map with the level sizes of the codebook, and the codebook with the numbers
    of the map's codes. A level beyond those of the codebook is an appended one."""
    codes = bundle.items.codes
    codebook = foreign.codebook
    n_levels = len(codebook.levels)
    if bundle.space.levels not in (n_levels, n_levels + 1):
        raise CompatibilityError(
            f"the map's semantic IDs have {bundle.space.levels} levels, the codebook {path} has "
            f"{n_levels}"
        )
    if foreign.may_count_from_one and int(codes[:, :n_levels].min()) > 0:
        placeholder = np.zeros((1, codebook.width), dtype=np.float32)  # code 0 of each level
        levels = tuple(np.concatenate([placeholder, level]) for level in codebook.levels)
        params = replace(codebook.params, first_code=1)
        codebook = replace(codebook, levels=levels, params=params)
    space_sizes = (*codebook.sizes, *bundle.space.sizes[n_levels:])
    if sizes is not None and tuple(sizes) != space_sizes:
        raise UsageError(
            f"--levels has {'x'.join(map(str, sizes))}, the codebook {path} needs "
            f"{'x'.join(map(str, space_sizes))}"
        )
    largest = codes.max(axis=0).tolist()
    if any(code >= size for code, size in zip(largest, space_sizes, strict=True)):
        raise CompatibilityError(
            f"the map's largest codes are {largest}, the codebook {path} has "
            f"{'x'.join(map(str, codebook.sizes))} codes"
        )
    return replace(bundle.space, sizes=space_sizes), codebook


def _measure(
    bundle: Bundle, codebook: Codebook, source: CodebookFile, catalog_ids: Sequence[str] | None
) -> Encoded:
    """Compare the map with what the codebook gives. Raises ThresholdError if too few are equal."""
    assert source.embeddings is not None
    ids = list(bundle.items.ids)
    if source.by_row:  # the file may have no ids, but a row for each item of the catalog
        ids = list(catalog_ids) if catalog_ids is not None else sorted_active_rows(bundle)[0]
    stored = read_vectors(Path(source.embeddings), ids, by_row=source.by_row)
    vectors = stored[rows_in(ids, list(bundle.items.ids))]  # (n, dim)
    if vectors.shape[1] != codebook.dim:
        raise CompatibilityError(
            f"{source.embeddings} has vectors of {vectors.shape[1]} dimensions, the codebook "
            f"{source.path} encodes {codebook.dim}"
        )
    equal = codebook.encode(vectors) == bundle.items.codes[:, : len(codebook.levels)]
    agreeing: NDArray[np.int64] = np.logical_and.accumulate(equal, axis=1).sum(axis=0)
    encoded = Encoded(len(vectors), tuple(agreeing.tolist()))
    if encoded.share < source.fail_under:
        raise ThresholdError(
            f"the codebook {source.path} gives back the SIDs of {encoded.equal[-1]} of "
            f"{encoded.items} items ({encoded.share:.1%}; first codes alone "
            f"{encoded.equal[0] / encoded.items:.1%}), below {source.fail_under:.0%}",
            hint="give the vectors that it was trained on, in the order of the items; "
            "--fail-under 0 imports it all the same",
        )
    return encoded


def _encoder_record(encoder: Encoder | None, codebook: Codebook, path: Path) -> dict[str, Any]:
    """The encoder for the recipe: as it computes if it is at hand, else as it was named."""
    if encoder is None:
        warnings.warn(
            f"the encoder of {path} is not recorded: new items need --embeddings; --encoder MODEL, "
            "with its --pooling and --prompt, records it",
            SidtoolWarning,
            stacklevel=4,
        )
        return {"vectors": "given", "dim": codebook.dim}
    if not _is_at_hand(encoder):
        return {**asdict(encoder), "dim": codebook.dim}
    record = load_encoder(encoder).record
    if record["dim"] != codebook.dim:
        raise CompatibilityError(
            f"the encoder {encoder.model} gives {record['dim']} dimensions, the codebook {path} "
            f"encodes {codebook.dim}"
        )
    return {key: value for key, value in record.items() if key != "libraries"}


def _is_at_hand(encoder: Encoder) -> bool:
    """Whether an encoder is on this machine: a large one is not downloaded to record its name."""
    if not is_hub_url(encoder.model):
        return True
    try:
        download(encoder.model, HubAccess(encoder.revision, local_files_only=True))
    except (DataError, MissingPackageError):
        return False
    return True
