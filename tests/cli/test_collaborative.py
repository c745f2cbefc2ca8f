from pathlib import Path

import pytest

from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import Road, build_command, done


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


def test_files_of_vectors_have_weights(road: Road, tmp_path: Path) -> None:
    out = tmp_path / "two.zarr"
    done(*build_command(road, out, "--embeddings", f"{road.vectors}=3"))
    sources = Bundle.open(out).codebook.params.fusion.sources
    assert [source.weight for source in sources] == [0.25, 0.75]
