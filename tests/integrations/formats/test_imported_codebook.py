import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.base.errors import (
    CompatibilityError,
    DataError,
    SidtoolWarning,
    ThresholdError,
    UsageError,
)
from sidtool.data.items import Items, make_items
from sidtool.integrations.formats.codebooks.layouts import OPENONEREC_DIM, OPENONEREC_ENCODER
from sidtool.integrations.formats.convert import CatalogFile, import_map
from sidtool.integrations.formats.imported_codebook import CodebookFile, Encoded, encoded_share
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.encoder.settings import Encoder
from sidtool.tokenizer.make.add import add_items
from sidtool.tokenizer.make.encode import embed_texts
from sidtool.tokenizer.sid import LETTERS
from tests.encoders import tiny_encoder
from tests.integrations.formats.codebooks.foreign import (
    RQVAE,
    Grid,
    ResKmeans,
    save_grid,
    save_rqvae,
    trained,
)

DIM = 9
N = 60
UNRECORDED = "ignore:the encoder of .* is not recorded"
UNMEASURED = "ignore:whether .* gives back the map is not measured"


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(3)


def vectors(folder: Path, *, seed: int = 4, count: int = N, named: bool = False) -> torch.Tensor:
    """Vectors of the items 0, 1, 2 ..., stored as vectors.npy."""
    generator = torch.Generator().manual_seed(seed)
    rows = 3 * torch.randn(count, DIM, generator=generator) + 1
    np.save(folder / "vectors.npy", rows.numpy())
    if named:
        (folder / "vectors.ids.txt").write_text("\n".join(map(str, range(count))) + "\n")
    return rows


def index(folder: Path, codes: Any, *, first: int = 0) -> Path:
    """An index.json of the items 0, 1, 2 ..."""
    tokens = {
        str(item): [f"<{LETTERS[level]}_{code + first}>" for level, code in enumerate(sid)]
        for item, sid in enumerate(codes.tolist())
    }
    (folder / "index.json").write_text(json.dumps(tokens))
    return folder / "index.json"


def encoded(bundle: Bundle) -> Encoded:
    """What was measured when a bundle was imported."""
    measured = encoded_share(bundle)
    assert measured is not None
    return measured


def new_items(*ids: str) -> Items:
    return make_items(ids, ids, ids, fields={}, template="{title}")


def rq_vae(folder: Path, rows: torch.Tensor) -> tuple[Path, CodebookFile, Any]:
    """The map and the codebook of an RQ-VAE with its stored vectors, and the model."""
    model = trained(RQVAE(DIM, 5, bn=True), DIM)
    save_rqvae(model, folder / "best.pth")
    by_row = not (folder / "vectors.ids.txt").exists()
    source = CodebookFile(folder / "best.pth", folder / "vectors.npy", by_row=by_row)
    return index(folder, model.codes(rows)), source, model


@pytest.mark.filterwarnings(UNRECORDED)
@pytest.mark.parametrize("named", [False, True])
def test_the_map_is_given_back_and_new_items_are_encoded(tmp_path: Path, named: bool) -> None:
    rows = vectors(tmp_path, named=named)
    path, source, model = rq_vae(tmp_path, rows)
    bundle = import_map(path, tmp_path / "shop.zarr", codebook=source)
    assert Bundle.broken(tmp_path / "shop.zarr") == []
    assert (bundle.manifest.format, bundle.space.sizes) == (1, (7, 5, 6))
    assert encoded(bundle) == Encoded(N, (N, N, N))
    assert bundle.manifest.source["codebook_layout"] == "rq-vae"
    assert bundle.manifest.recipe["encoder"] == {"vectors": "given", "dim": DIM}
    new = 3 * torch.randn(8, DIM) + 1
    ids = [f"n{number}" for number in range(8)]
    larger = add_items(bundle, new_items(*ids), new.numpy())
    assert bundle.manifest.collisions.policy == "allow"  # 60 items on fewer SIDs
    added = [larger.items.codes[larger.items.row(item)].tolist() for item in ids]
    assert added == model.codes(new).tolist()


@pytest.mark.filterwarnings(UNRECORDED)
def test_a_map_that_counts_from_one(tmp_path: Path) -> None:
    rows = vectors(tmp_path)
    model = ResKmeans(DIM)
    levels = {f"codebook_{n}": x.numpy() for n, x in enumerate(model.state_dict().values())}
    np.savez_compressed(tmp_path / "codebooks.npz", **levels)
    codes = model.codes(rows)
    _, firsts = np.unique(codes, axis=0, return_index=True)
    first_rows = np.sort(firsts)  # one item of each SID
    np.save(tmp_path / "vectors.npy", rows.numpy()[first_rows])
    path = index(tmp_path, codes[first_rows], first=1)
    source = CodebookFile(tmp_path / "codebooks.npz", tmp_path / "vectors.npy", by_row=True)
    bundle = import_map(path, tmp_path / "shop.zarr", codebook=source)
    assert (bundle.manifest.format, bundle.space.sizes) == (2, (8, 6, 7))
    assert bundle.manifest.collisions.policy == "reassign"
    assert encoded(bundle).share == 1.0
    opened = Bundle.open(tmp_path / "shop.zarr")
    assert opened.encode(rows.numpy()).tolist() == (codes + 1).tolist()
    # 50 copies of one vector overflow its prefix, and none of them gets a code 0
    ids = [f"n{number}" for number in range(50)]
    larger = add_items(opened, new_items(*ids), np.tile(rows.numpy()[:1], (50, 1)))
    assert larger.items.codes[larger.items.rows(ids)].min() == 1
    assert len(np.unique(larger.items.codes, axis=0)) == len(larger)


@pytest.mark.filterwarnings(UNRECORDED)
@pytest.mark.parametrize("is_vae", [False, True])
def test_grid_with_its_map_and_its_appended_level(tmp_path: Path, is_vae: bool) -> None:
    rows = vectors(tmp_path, named=True)
    model = trained(Grid(DIM, is_vae=is_vae, normalize=True), DIM)
    save_grid(model, tmp_path / "grid.ckpt")
    codes = model.codes(rows)
    seen: dict[tuple[int, ...], int] = {}
    counts = [codes.tolist().count(sid) for sid in codes.tolist()]
    last = []
    for sid, count in zip(map(tuple, codes.tolist()), counts, strict=True):
        seen[sid] = seen.get(sid, 0) + 1
        last.append(seen[sid] if count > 1 else 0)
    digits = np.concatenate([codes, np.array(last)[:, None]], axis=1)
    torch.save(torch.from_numpy(digits).T.contiguous(), tmp_path / "map.pt")
    source = CodebookFile(tmp_path / "grid.ckpt", tmp_path / "vectors.npy")
    bundle = import_map(tmp_path / "map.pt", tmp_path / "shop.zarr.zip", codebook=source)
    assert Bundle.broken(tmp_path / "shop.zarr.zip") == []
    assert bundle.manifest.format == 2
    assert (bundle.manifest.collisions.policy, bundle.space.levels) == ("append", 4)
    assert encoded(bundle).equal == (N, N, N)
    item_rows = bundle.items.rows([str(item) for item in range(N)])
    assert bundle.items.codes[item_rows].tolist() == digits.tolist()
    assert bundle.sid("0").startswith("<s_a_")
    larger = add_items(bundle, new_items("new"), rows.numpy()[:1])
    assert larger.items.codes[larger.items.row("new")][:3].tolist() == codes[0].tolist()
    alone = import_map(index(tmp_path, codes[:1]), tmp_path / "one.zarr", codebook=source)
    assert alone.manifest.collisions.policy == "allow"  # such residuals have no free SIDs
    # the codebook does not say how many codes the appended level has
    out = tmp_path / "wide.zarr"
    sizes: Any = [7, 5, 6, 99]  # as a notebook has them
    wide = import_map(tmp_path / "map.pt", out, sizes=sizes, codebook=source)
    assert (wide.space.sizes, wide.manifest.collisions.capacity) == ((7, 5, 6, 99), 99)


def test_a_map_of_grid_alone(tmp_path: Path) -> None:
    torch.save(torch.tensor([[3, 1], [0, 2], [0, 0]]).T, tmp_path / "flat.pt")
    torch.save(torch.zeros(30, 40, dtype=torch.long), tmp_path / "wide.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(torch.zeros(3, 4), tmp_path / "floats.pt")
    for file, message in (
        ("wide", r"has 30 levels: it must be .levels, items."),
        ("list", r"it has no tensor of codes, but another value"),
        ("floats", r"has the shape .3, 4. and the type float32"),
    ):
        with pytest.raises(DataError, match=message):
            import_map(tmp_path / f"{file}.pt", tmp_path / "wide.zarr")
    bundle = import_map(tmp_path / "flat.pt", tmp_path / "map.zarr")
    assert (bundle.space.sizes, bundle.codebook) == ((4, 4), None)
    assert bundle.sids() == {"2": "<s_a_0><s_b_0>", "1": "<s_a_0><s_b_2>", "0": "<s_a_3><s_b_1>"}
    (tmp_path / "items.csv").write_text("sku,title\nx,A\ny,B\nz,C\n")
    items = CatalogFile(tmp_path / "items.csv", id_column="sku")
    named = import_map(tmp_path / "flat.pt", tmp_path / "named.zarr", items=items)
    assert named.sid("x") == "<s_a_3><s_b_1>"
    assert named.items.title(named.items.row("z")) == "C"
    (tmp_path / "items.csv").write_text("sku,title\nx,A\n")
    with pytest.raises(DataError, match=r"has 3 items, the catalog 1"):
        import_map(tmp_path / "flat.pt", tmp_path / "no.zarr", items=items)


def test_other_vectors_are_refused(tmp_path: Path) -> None:
    path, source, _ = rq_vae(tmp_path, vectors(tmp_path))
    rows = vectors(tmp_path, seed=99)
    with pytest.raises(ThresholdError, match=r"gives back the SIDs of .* of 60 items") as caught:
        import_map(path, tmp_path / "shop.zarr", codebook=source)
    assert "--fail-under 0" in (caught.value.shell_hint or "")
    np.save(tmp_path / "vectors.npy", rows.numpy()[:, :5])
    with pytest.raises(CompatibilityError, match=r"vectors of 5 dimensions, the codebook .* 9"):
        import_map(path, tmp_path / "shop.zarr", codebook=source)
    assert not (tmp_path / "shop.zarr").exists()


@pytest.mark.filterwarnings(UNRECORDED)
def test_a_share_below_one_is_measured_by_levels(tmp_path: Path) -> None:
    rows = vectors(tmp_path)
    _, source, model = rq_vae(tmp_path, rows)
    codes = model.codes(rows)
    codes[:6, 2] = (codes[:6, 2] + 1) % 6  # as after a resolution of collisions
    codes[:2, 0] = (codes[:2, 0] + 1) % 7
    bundle = import_map(index(tmp_path, codes), tmp_path / "shop.zarr", codebook=source)
    assert encoded(bundle).equal == (58, 58, 54)
    assert encoded(bundle).share == 0.9
    # a later version has what was measured at its import
    assert encoded(add_items(bundle, remove=["3"])) == encoded(bundle)


def test_an_unknown_encoder_is_asked_for(tmp_path: Path) -> None:
    path, source, _ = rq_vae(tmp_path, vectors(tmp_path))
    with pytest.raises(UsageError, match=r"the encoder of .* is not known") as caught:
        import_map(path, tmp_path / "shop.zarr", codebook=CodebookFile(source.path))
    assert "--encoder MODEL" in (caught.value.shell_hint or "")
    with pytest.warns(SidtoolWarning, match=r"--encoder MODEL, with its --pooling and --prompt"):
        import_map(path, tmp_path / "shop.zarr", codebook=source)


def test_an_encoder_that_is_not_at_hand_is_recorded_by_name(tmp_path: Path) -> None:
    path, source, _ = rq_vae(tmp_path, vectors(tmp_path))
    encoder = Encoder("hf://org/encoder-of-nobody", pooling="mean", prompt="item: ")
    source = CodebookFile(source.path, encoder=encoder, text_template="{title} {description}")
    with pytest.warns(SidtoolWarning, match=r"gives back the map is not measured: --embeddings"):
        bundle = import_map(path, tmp_path / "shop.zarr", codebook=source)
    recorded = bundle.manifest.recipe["encoder"]
    assert (recorded["model"], recorded["pooling"]) == ("hf://org/encoder-of-nobody", "mean")
    assert (recorded["prompt"], recorded["dim"]) == ("item: ", DIM)
    assert bundle.manifest.recipe["text_template"] == "{title} {description}"
    assert encoded_share(bundle) is None
    # the width of its vectors says that it is OpenOneRec's
    torch.save(ResKmeans(OPENONEREC_DIM).state_dict(), tmp_path / "wide.pt")
    with pytest.warns(SidtoolWarning, match=r"gives back the map is not measured"):
        wide = import_map(path, tmp_path / "wide.zarr", codebook=tmp_path / "wide.pt")
    assert wide.manifest.recipe["encoder"]["model"] == OPENONEREC_ENCODER
    with pytest.raises(DataError, match=r"is not on this machine"):
        embed_texts(bundle, ["red lamp"])


@pytest.mark.parametrize("template", ["{title", "{}", "{title!r}", "no column"])
def test_a_text_template_that_is_none_is_not_recorded(template: str) -> None:
    with pytest.raises(UsageError, match="text template"):
        CodebookFile("rqvae.pth", text_template=template)


@pytest.mark.filterwarnings(UNMEASURED)
def test_an_encoder_at_hand_is_recorded_with_its_probes(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    folder = tiny_encoder(plain, tmp_path / "encoder")
    path, source, _ = rq_vae(tmp_path, vectors(tmp_path))
    encoder = Encoder(str(folder), pooling="mean")
    narrow = CodebookFile(source.path, encoder=encoder)
    with pytest.raises(CompatibilityError, match=r"gives 16 dimensions, the codebook .* 9"):
        import_map(path, tmp_path / "x.zarr", codebook=narrow)
    model = trained(RQVAE(16, 5), 16)
    save_rqvae(model, tmp_path / "wide.pth")
    source = CodebookFile(tmp_path / "wide.pth", encoder=encoder)
    bundle = import_map(path, tmp_path / "shop.zarr", codebook=source)
    assert len(bundle.manifest.recipe["encoder"]["probes"]) == 3
    items = new_items("new")
    added = add_items(bundle, items)
    expected = bundle.encode(embed_texts(bundle, items.texts))
    assert added.items.codes[added.items.row("new")].tolist() == expected[0].tolist()
    # an encoder that was only named cannot be recognized: a warning says so
    named = dict(bundle.manifest.recipe["encoder"])
    del named["probes"], named["weights"]
    recipe = {**bundle.manifest.recipe, "encoder": named}
    unknown = Bundle.of(bundle.items, bundle.codebook, "allow", name="x", recipe=recipe)
    with pytest.warns(SidtoolWarning, match=r"is not checked"):
        assert np.array_equal(embed_texts(unknown, items.texts), embed_texts(bundle, items.texts))


def test_a_codebook_of_another_map_is_refused(tmp_path: Path) -> None:
    rows = vectors(tmp_path)
    path, source, model = rq_vae(tmp_path, rows)
    with pytest.raises(UsageError, match=r"--levels has 8x8x8, the codebook .* needs 7x5x6"):
        import_map(path, tmp_path / "x.zarr", sizes=(8, 8, 8), codebook=source)
    two = index(tmp_path, model.codes(rows)[:, :2])
    with pytest.raises(CompatibilityError, match=r"have 2 levels, the codebook .* has 3"):
        import_map(two, tmp_path / "x.zarr", codebook=source)
    larger = index(tmp_path, model.codes(rows), first=4)
    with pytest.raises(CompatibilityError, match=r"the codebook .* has 7x5x6 codes"):
        import_map(larger, tmp_path / "x.zarr", codebook=source)
    assert not (tmp_path / "x.zarr").exists()


def test_vectors_without_ids_follow_the_catalog(tmp_path: Path) -> None:
    rows = vectors(tmp_path)
    path, source, _ = rq_vae(tmp_path, rows)
    order = np.random.default_rng(0).permutation(N)
    lines = ["sku,title", *(f"{item},title {item}" for item in order.tolist())]
    (tmp_path / "items.csv").write_text("\n".join(lines) + "\n")
    np.save(tmp_path / "vectors.npy", rows.numpy()[order])
    items = CatalogFile(tmp_path / "items.csv", id_column="sku")
    with pytest.warns(SidtoolWarning, match=r"is not recorded"):
        bundle = import_map(path, tmp_path / "x.zarr", items=items, codebook=source)
    assert encoded(bundle).share == 1.0
    (tmp_path / "items.csv").write_text("\n".join(lines[:-3]) + "\n")
    np.save(tmp_path / "vectors.npy", rows.numpy()[order[:-3]])
    with pytest.raises(DataError, match=r"the catalog lacks 3 of 60 items"):
        import_map(path, tmp_path / "y.zarr", items=items, codebook=source)


@pytest.mark.filterwarnings(UNRECORDED)
def test_items_that_only_the_catalog_has_need_no_vectors(tmp_path: Path) -> None:
    path, source, _ = rq_vae(tmp_path, vectors(tmp_path, named=True))
    lines = ["item_id,title", *(f"{item},title {item}" for item in range(N + 5))]
    (tmp_path / "items.csv").write_text("\n".join(lines) + "\n")
    bundle = import_map(path, tmp_path / "x.zarr", items=tmp_path / "items.csv", codebook=source)
    assert encoded(bundle) == Encoded(N, (N, N, N))
