"""Vectors and SIDs of the items of a folder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.digests import file_digest
from sidtool.base.inputs import keeps_inputs
from sidtool.data import Items, TextNames, read_items
from sidtool.data.tables import as_url
from sidtool.integrations.cluster.output import (
    PartReport,
    part_name,
    refuse_existing_folder,
    refuse_input,
)
from sidtool.integrations.cluster.run import RunOptions, RunReport, Work, run_over_folder
from sidtool.integrations.cluster.shards import Shard, errors_at
from sidtool.registry import locate, open_bundle, open_source, with_version
from sidtool.tokenizer import open_encoder, recorded_encoder
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.encoder import LEXICAL, Encoder, check_model, encoder_digests, load_encoder

SHARD_ROWS = 2048
"""Items of a shard: minutes of a small encoder on a CPU. Within a shard texts are embedded longest
first, so the last bits of a vector depend on it."""


@dataclass(frozen=True, kw_only=True)
class ItemColumns(TextNames):
    """Columns of a catalog; None: guessed, the text is the title."""

    def read(self, shard: Shard, place: Path, bundle: Bundle | None = None) -> Items:
        """The items of a shard, which is copied to a folder; errors as `read_items`."""
        path = shard.fetch(place)
        with errors_at(path, shard.source):
            return read_items(
                path,
                id_column=self.id_column,
                title_column=self.title_column,
                text_template=self.text_template,
                recorded=None if bundle is None else bundle.manifest.made_from.columns,
            )


@keeps_inputs()
def embed_folder(
    items: str | Path,
    out: str | Path,
    encoder: Encoder | str,
    columns: ItemColumns | None = None,
    *,
    run: RunOptions | None = None,
    shard_rows: int = SHARD_ROWS,
) -> RunReport:
    """Embed the items of a Parquet file, or of a folder of such at any fsspec URL, and write a
    folder of Parquet with `item_id` and `vector`, which `build-codebook --embeddings` reads.

    The parts are the same for any engine and number of workers. Raises UsageError if `out` exists,
    and as `embed` and `read_items` do.

    Examples:
        >>> sidtool.embed_folder("items.parquet", "vectors", sidtool.Encoder("no-such-folder"))
        Traceback (most recent call last):
        sidtool.base.errors.DataError: the encoder no-such-folder is not a folder
        encoder="lexical", encoder="minilm", or hf://ORG/NAME for a model of the Hugging Face hub
    """
    items, out = as_url(items), as_url(out)
    encoder = Encoder(encoder) if isinstance(encoder, str) else encoder
    check_model(encoder)
    columns = columns or ItemColumns()
    run = run or RunOptions()
    made_from = {
        "command": "embed",
        "encoder": {**_settings(encoder), **_digests(encoder, out, run)},
        "columns": _settings(columns),
    }
    work = partial(_open_embedding, encoder, columns)
    return run_over_folder(work, items, out, made_from, run, shard_rows=shard_rows)


@keeps_inputs()
def encode_folder(
    bundle: str | Path,
    items: str | Path,
    out: str | Path,
    columns: ItemColumns | None = None,
    *,
    model: str | None = None,
    trust_remote_code: bool = False,
    run: RunOptions | None = None,
    shard_rows: int = SHARD_ROWS,
) -> RunReport:
    """Encode the items of a folder by a bundle's encoder and codebook, as `encode` does, and write
    a folder of Parquet with `item_id`, `sid` and `codes`. The text of an item is made as when the
    bundle was built, unless `columns` has a template.

    Raises UsageError if `out` exists, and as `embed_texts` and `read_items` do.

    Examples:
        >>> sidtool.encode_folder("shop.zarr", "items.parquet", "sids")
        Traceback (most recent call last):
        sidtool.base.errors.RefusedError: bundle 'shop' was built from given vectors
        give embeddings
    """
    bundle, items, out = with_version(str(bundle)), as_url(items), as_url(out)
    opened = open_source(bundle)
    refuse_input(out, locate(bundle)[0])
    columns = columns or ItemColumns()
    if columns.text_template is None:
        columns = replace(columns, text_template=opened.manifest.made_by.text_template)
    encoder = recorded_encoder(opened, model=model, trust_remote_code=trust_remote_code)
    run = run or RunOptions()
    made_from = {
        "command": "encode",
        "bundle": opened.identity.digest,
        "encoder": _digests(encoder, out, run),
        "columns": _settings(columns),
    }
    work = partial(_open_encoding, bundle, model, trust_remote_code, columns)
    return run_over_folder(work, items, out, made_from, run, shard_rows=shard_rows)


def _open_embedding(encoder: Encoder, columns: ItemColumns) -> Work[Shard]:
    """Load an encoder, to embed the items of shards."""
    import pyarrow as pa

    loaded = load_encoder(encoder)

    def embed(number: int, shard: Shard, place: Path) -> PartReport:
        items = columns.read(shard, place)
        vectors = np.ascontiguousarray(loaded.vectors(items.texts))
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        return _write_part(place, number, {"item_id": list(items.ids), "vector": lists})

    return embed


def _open_encoding(
    bundle: str, model: str | None, trust_remote_code: bool, columns: ItemColumns
) -> Work[Shard]:
    """Open a bundle, and load its encoder, which must be that of the recipe, to encode the items of
    shards."""
    opened = open_bundle(bundle)
    loaded = open_encoder(opened, model=model, trust_remote_code=trust_remote_code)

    def encode(number: int, shard: Shard, place: Path) -> PartReport:
        items = columns.read(shard, place, opened)
        codes = opened.encode(loaded.vectors(items.texts)).tolist()
        sids = [opened.space.spell(row) for row in codes]
        return _write_part(place, number, {"item_id": list(items.ids), "sid": sids, "codes": codes})

    return encode


def _write_part(place: Path, number: int, columns: Mapping[str, Any]) -> PartReport:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = place / part_name(number)
    pq.write_table(pa.table(dict(columns)), path)
    return PartReport(path.name, len(columns["item_id"]), file_digest(path))


def _digests(encoder: Encoder, out: str, run: RunOptions) -> dict[str, dict[str, str]]:
    """The digests of an encoder's files; none for one in a bundle, whose identity has them, and for
    a dry run, which makes nothing of them."""
    if run.dry_run:
        return {}
    refuse_existing_folder(out, force=run.force)  # before gigabytes are read
    return {} if encoder.model == LEXICAL else encoder_digests(encoder)


def _settings(record: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if value is not None}
