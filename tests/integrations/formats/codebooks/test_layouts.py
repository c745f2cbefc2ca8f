"""Codebooks of other systems encode to the codes of a plain re-computation."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sidtool.base.errors import DataError
from sidtool.integrations.formats.codebooks.layouts import read_codebook
from tests.integrations.formats.codebooks.foreign import (
    RQVAE,
    SIZES,
    Grid,
    ResKmeans,
    save_grid,
    save_rqvae,
    seeded,
    trained,
)

DIM = 9


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


def rows(count: int = 300, dim: int = DIM) -> torch.Tensor:
    return 2 * torch.randn(count, dim, generator=seeded(7)) + 0.5


def check(path: Path, expected: Any, **facts: Any) -> None:
    """The codes of a file are these, and it has these facts."""
    foreign = read_codebook(path)
    assert (foreign.codebook.sizes, foreign.codebook.dim) == (SIZES, DIM)
    codes = foreign.codebook.encode(rows().numpy())
    assert len({tuple(sid) for sid in codes.tolist()}) > 20
    assert codes.tolist() == expected.tolist()
    assert {name: getattr(foreign, name) for name in facts} == facts


@pytest.mark.parametrize("under", [None, "model", "state_dict"])
def test_openonerec(tmp_path: Path, under: str | None) -> None:
    model = ResKmeans(DIM)
    state = model.state_dict()
    torch.save(state if under is None else {under: state}, tmp_path / "model.pt")
    check(tmp_path / "model.pt", model.codes(rows()), layout="openonerec", encoder=None)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "bn", [{}, {"bn": True}, {"bn": True, "bn_at_end": True}], ids=["plain", "LC-Rec", "LETTER"]
)
def test_rq_vae(tmp_path: Path, bn: dict[str, bool], protocol: int) -> None:
    model = trained(RQVAE(DIM, 5, **bn), DIM)
    save_rqvae(model, tmp_path / "best.pth", protocol=protocol)
    facts = {"layout": "rq-vae", "may_count_from_one": False}
    check(tmp_path / "best.pth", model.codes(rows()), **facts)


def test_the_decoder_of_an_rq_vae_reconstructs(tmp_path: Path) -> None:
    model = trained(RQVAE(DIM, 5, bn=True), DIM)
    save_rqvae(model, tmp_path / "best.pth")
    codebook = read_codebook(tmp_path / "best.pth").codebook
    codes = codebook.encode(rows().numpy())
    with torch.no_grad():
        latent = sum(level[column] for level, column in zip(model.levels, codes.T, strict=True))
        expected = model.decoder(latent).numpy()
    assert np.allclose(codebook.reconstruct(codes), expected, atol=1e-4)


def test_rq_kmeans_plus(tmp_path: Path) -> None:
    model = trained(RQVAE(DIM, DIM, plus=True), DIM)
    save_rqvae(model, tmp_path / "plus.pth")
    facts = {"layout": "rq-kmeans+", "may_count_from_one": True}
    check(tmp_path / "plus.pth", model.codes(rows()), **facts)


@pytest.mark.parametrize(("dtype", "order"), [("float32", "F"), ("float64", "C")])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rq_kmeans(tmp_path: Path, save: Any, dtype: str, order: Any) -> None:
    model = ResKmeans(DIM)
    levels = [level.numpy().astype(dtype, order) for level in model.state_dict().values()]
    save(tmp_path / "codebooks.npz", **{f"codebook_{n}": level for n, level in enumerate(levels)})
    facts = {"layout": "rq-kmeans", "may_count_from_one": True}
    check(tmp_path / "codebooks.npz", model.codes(rows()), **facts)


@pytest.mark.parametrize(
    ("is_vae", "bias", "normalize"),
    [
        (True, True, True),
        (True, True, False),
        (True, False, False),
        (False, True, True),
        (False, True, False),
    ],
)
def test_grid(tmp_path: Path, is_vae: bool, bias: bool, normalize: bool) -> None:
    model = trained(Grid(DIM, is_vae=is_vae, normalize=normalize, bias=bias), DIM)
    save_grid(model, tmp_path / "grid.ckpt")
    check(tmp_path / "grid.ckpt", model.codes(rows()), layout="grid")


def test_grid_normalizes_residuals_unless_its_settings_say_otherwise(tmp_path: Path) -> None:
    model = trained(Grid(DIM, is_vae=False, normalize=True), DIM)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "grid.ckpt")
    check(tmp_path / "grid.ckpt", model.codes(rows()))
    save_grid(model, tmp_path / "odd.ckpt", settings={"normalize_residuals": "yes"})
    with pytest.raises(DataError, match=r"normalize_residuals is neither true nor false"):
        read_codebook(tmp_path / "odd.ckpt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    model = ResKmeans(DIM).to(dtype)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    levels = read_codebook(tmp_path / "model.pt").codebook.levels
    for level, stored in zip(levels, model.state_dict().values(), strict=True):
        assert level.dtype == np.float32
        assert np.array_equal(level, stored.float().numpy())


class Settings:
    """A value that newer pickle protocols make by __new__ with keywords."""

    def __new__(cls, *, width: int = 1) -> "Settings":
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
        return (), {"width": 2}


def test_other_values_beside_the_codebook_are_passed_over(tmp_path: Path) -> None:
    level = torch.randn(4, DIM)
    named = {"centroids.0": level, "settings": Settings()}
    torch.save(named, tmp_path / "model.pt", pickle_protocol=4)
    (read,) = read_codebook(tmp_path / "model.pt").codebook.levels
    assert np.array_equal(read, level.numpy())


def test_views_of_a_storage_are_read(tmp_path: Path) -> None:
    big = torch.randn(40, 12)
    levels = [big[3:10, :DIM], big[20:25, 2 : 2 + DIM], torch.randn(DIM, 6).T]
    named = {f"centroids.{number}": nn.Parameter(level) for number, level in enumerate(levels)}
    state = defaultdict(None, named)  # a mapping that a pickle makes by a call
    torch.save(state, tmp_path / "model.pt")
    read = read_codebook(tmp_path / "model.pt").codebook.levels
    for level, stored in zip(read, levels, strict=True):
        assert np.array_equal(level, stored.numpy())


def test_files_without_a_known_codebook_are_named(tmp_path: Path) -> None:
    torch.save({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "model.pt")
    with pytest.raises(DataError, match=r"no known codebook; its tensors are 'lm_head.weight'"):
        read_codebook(tmp_path / "model.pt")
    np.savez(tmp_path / "x.npz", other=np.zeros(3))
    with pytest.raises(DataError, match=r"its tensors are 'other'"):
        read_codebook(tmp_path / "x.npz")
    levels = {"centroids.0": torch.zeros(2, 2), "centroids.2": torch.zeros(2, 2)}
    torch.save(levels, tmp_path / "g.pt")
    with pytest.raises(DataError, match=r"has the levels \[0, 2\], not 0, 1, 2"):
        read_codebook(tmp_path / "g.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(DataError, match="no tensors by name, like a module that was saved whole"):
        read_codebook(tmp_path / "whole.pt")
    with pytest.raises(DataError, match=r"no known codebook has the suffix"):
        read_codebook(tmp_path / "model.safetensors")
