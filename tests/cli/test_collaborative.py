"""build-codebook with interactions and with several sources of vectors, and encoding with such
bundles."""

from pathlib import Path

import numpy as np
import pytest

from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import N_ITEMS, Road, build_command, done


@pytest.fixture(scope="module")
def image(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors of three dimensions, in the order of the shop's vectors."""
    path = tmp_path_factory.mktemp("image") / "image.npy"
    np.save(path, np.random.default_rng(5).normal(size=(N_ITEMS, 3)).astype(np.float32))
    path.with_suffix(".ids.txt").write_text(road.vectors.with_suffix(".ids.txt").read_text())
    return path


@pytest.fixture(scope="module")
def social(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("social") / "shop.zarr"
    fusion = ("--set", "collaborative_dim=6", "--set", "collaborative_weight=0.4")
    done(*build_command(road, out, "--interactions", road.events, *fusion))
    return out


def test_inspect_describes_the_co_occurrence_source(road: Road, social: Path) -> None:
    shown = done("inspect", social).out
    assert "training events, leave-one-out, fused into" in shown
    assert "weight 0.4" in shown
    assert "fused into" not in done("inspect", road.bundle).out
    done("verify", social)
    assert Bundle.open(social).identity != Bundle.open(road.bundle).identity


def test_an_encoder_and_interactions_are_combined(
    road: Road, encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "text.zarr"
    command = ("build-codebook", road.items, "-o", out, "--levels", "4x4x8", "--encoder", encoder)
    done(*command, "--no-balanced", "--interactions", road.events, "--set", "collaborative_dim=4")
    assert len(done("encode", out, "a red lamp", "--json").lines) == 1
    assert Bundle.open(out).codebook.width == 20


def test_a_file_of_options_does_what_flags_do(
    road: Road, social: Path, image: Path, tmp_path: Path
) -> None:
    config = tmp_path / "codebook.yaml"
    config.write_text(
        f"levels: 4x4x8\nembeddings: {road.vectors}\ninteractions: {road.events}\n"
        "set:\n  collaborative_dim: 6\n  collaborative_weight: 0.4\n"
    )
    done("build-codebook", road.items, "-o", tmp_path / "shop.zarr", "--config", config)
    assert Bundle.open(tmp_path / "shop.zarr").identity == Bundle.open(social).identity
    config.write_text(f"levels: 4x4x8\nembeddings:\n  {road.vectors}: 3\n  {image}: 1\n")
    done("build-codebook", road.items, "-o", tmp_path / "two.zarr", "--config", config)
    sources = Bundle.open(tmp_path / "two.zarr").codebook.params.fusion.sources
    assert [source.weight for source in sources] == [0.75, 0.25]
