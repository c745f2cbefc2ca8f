from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sidtool.base.errors import DataError, SidtoolWarning, UsageError
from sidtool.data.interactions import read_interactions
from sidtool.data.items import Items, make_items
from sidtool.data.split.pairs import count_cooccurrence
from sidtool.data.split.protocols import SplitEvents, given
from sidtool.data.split.record import Cuts
from sidtool.data.split.split import Split
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.encoder.settings import Encoder
from sidtool.tokenizer.make.add import add_items
from sidtool.tokenizer.make.build import (
    DECAY,
    EVENT_DISTANCE,
    BuildOptions,
    build,
    build_codebook,
    open_inputs,
)
from sidtool.tokenizer.make.encode import check_not_empty, encode
from sidtool.tokenizer.quantize.fusion import FusionOptions
from tests.bundles import reopened
from tests.data.split.cases import write_windows
from tests.tokenizer.quantize.material import mixture

N = 60
IDS = tuple(f"b{n:02d}" for n in range(N))
EVENTS = [
    (f"u{user}", IDS[(7 * user + step) % (N - 5)], step)
    for user in range(30)
    for step in range(4 + user % 4)
]
"""The last five items have no events."""


def listed(ids: tuple[str, ...]) -> Items:
    return make_items(ids, ids, ids, fields={}, template="{title}")


def split_of(
    folder: Path, events: list[tuple[str, str, int]], protocol: str = "leave-one-out"
) -> Split:
    if protocol == "given":
        return given(*write_windows(folder, events))
    path = folder / "events.csv"
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in events))
    read = SplitEvents(read_interactions(path))
    return read.leave_one_out() if protocol == "leave-one-out" else read.temporal(Cuts(4, 5))


def built(
    split: Split | None, *, seed: int = 0, method: str = "rq-kmeans", **settings: object
) -> Bundle:
    options = BuildOptions(
        (8, 8, 4),
        method,  # type: ignore[arg-type]
        {"epochs": 2} if method in ("rq-vae", "rq-kmeans+") else {},
        fusion=FusionOptions(**{"collaborative_dim": 6, **settings}),  # type: ignore[arg-type]
        seed=seed,
    )
    encoder = {"vectors": "given"}
    vectors = [mixture(0, N, 10)]
    pairs = None
    if split is not None:
        pairs = count_cooccurrence(split, IDS, window=EVENT_DISTANCE, decay=DECAY)
    return build(listed(IDS), vectors, options, name="shop", encoder=encoder, cooccurrence=pairs)


@pytest.mark.parametrize("protocol", ["leave-one-out", "temporal", "given"])
@pytest.mark.parametrize("method", ["rq-kmeans", pytest.param("rq-vae", marks=pytest.mark.slow)])
def test_only_training_events_change_a_codebook(tmp_path: Path, protocol: str, method: str) -> None:
    bundle = built(split_of(tmp_path, EVENTS, protocol), method=method)
    assert (bundle.manifest.recipe or {})["collaborative"]["protocol"] == protocol
    lengths = {user: sum(event[0] == user for event in EVENTS) - 2 for user, _, _ in EVENTS}
    cut = dict.fromkeys(lengths, 4) if protocol == "temporal" else lengths
    held_out = [at for at, (user, _, step) in enumerate(EVENTS) if step >= cut[user]]
    trained = next(at for at in range(len(EVENTS)) if at not in held_out)

    def with_others(places: list[int]) -> Bundle:
        changed = [(u, IDS[N - 1] if at in places else i, t) for at, (u, i, t) in enumerate(EVENTS)]
        return built(split_of(tmp_path, changed, protocol), method=method)

    other = with_others(held_out)
    assert other.identity == bundle.identity
    assert (other.items.codes == bundle.items.codes).all()
    # the split with its held-out events is recorded outside the identity
    assert other.manifest.source != bundle.manifest.source
    changed = with_others([trained])
    assert changed.identity.codebook != bundle.identity.codebook
    pairs = zip(changed.codebook.levels, bundle.codebook.levels, strict=True)
    assert any((one != other).any() for one, other in pairs)


def test_the_recipe_records_the_sources(tmp_path: Path) -> None:
    split = split_of(tmp_path, EVENTS)
    recipe = built(split, collaborative_weight=0.3).manifest.recipe or {}
    assert recipe["collaborative"]["protocol"] == "leave-one-out"
    assert recipe["collaborative"]["train_events"] == split.counts.train_events
    assert recipe["collaborative"]["window"] == 5
    fusion = recipe["quantizer"]["parameters"]["fusion"]
    assert fusion["sources"] == [{"dim": 10, "width": 10, "weight": 0.7}]
    assert {"dim": 6, "weight": 0.3}.items() <= fusion["collaborative"].items()
    assert 0 < fusion["collaborative"]["warm_items"] < N


def test_the_same_seed_gives_the_same_bundle(tmp_path: Path) -> None:
    split = split_of(tmp_path, EVENTS)
    assert built(split).identity == built(split).identity
    assert built(split, seed=1).identity != built(split).identity


@pytest.mark.parametrize(
    "method",
    [
        *("rq-kmeans", "pq", "rq-vae"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("rq-kmeans+", "opq")),
    ],
)
def test_every_method_supports_co_occurrence_and_later_items(tmp_path: Path, method: str) -> None:
    made = built(split_of(tmp_path, EVENTS), method=method)
    opened = reopened(made, tmp_path / "shop.zarr")
    fresh = mixture(5, 3, 10)
    grown = add_items(opened, listed(("n0", "n1", "n2")), fresh)
    assert len(np.unique(grown.items.codes, axis=0)) == N + 3
    assert [grown.sid(item) for item in IDS] == [made.sid(item) for item in IDS]
    assert opened.encode(fresh).tolist() == made.encode(fresh).tolist()


def test_items_without_events_are_coded_by_text_and_those_with_many_are_not(tmp_path: Path) -> None:
    bundle = built(split_of(tmp_path, EVENTS), collaborative_weight=0.6)
    raw = bundle.encode(mixture(0, N, 10))
    same = (bundle.items.codes[bundle.items.rows(IDS)] == raw).all(axis=1)
    assert same[N - 5 :].sum() >= 3  # but for those that had to move
    assert same[: N - 5].mean() < 0.7


def test_co_occurring_items_share_more_of_their_sid_than_by_text_alone(tmp_path: Path) -> None:
    pairs = [(n, n + N // 2) for n in range(N // 2)]
    events = [
        (f"u{user}", IDS[item], step)
        for user in range(120)
        for step, item in enumerate((*pairs[user % 30], *pairs[user % 30], *pairs[(user + 1) % 30]))
    ]

    def together(split: Split | None) -> int:
        bundle = built(split, collaborative_weight=0.8, collaborative_dim=30)
        codes = bundle.items.codes[bundle.items.rows(IDS)]
        return sum(codes[left, 0] == codes[right, 0] for left, right in pairs)

    assert together(split_of(tmp_path, events)) >= together(None) + 5


def test_the_weight_of_a_single_source_is_checked_too() -> None:
    for weights in ((-1.0,), (1.0, 2.0)):
        options = BuildOptions((8, 8, 4), weights=weights)
        for source in ({"embeddings": [mixture(0, N, 10)]}, {"encoder": Encoder("lexical")}):
            with pytest.raises(UsageError, match="1 sources of vectors need 1 positive weights"):
                open_inputs(listed(IDS), options, **source)


def test_options_of_co_occurrence_need_events(tmp_path: Path) -> None:
    options = {"embeddings": mixture(0, N, 10), "fusion": FusionOptions(collaborative_weight=0.3)}
    with pytest.raises(UsageError, match="collaborative_weight need interactions"):
        build_codebook(listed(IDS), tmp_path / "x.zarr", **options)


def test_options_of_method_and_fusion_are_keywords(tmp_path: Path) -> None:
    data = {"embeddings": mixture(0, N, 10), "levels": "8x8x4"}
    split = split_of(tmp_path, EVENTS)
    fused = {"interactions": split, "collaborative_dim": 6, "balanced": False}
    bundle = build_codebook(listed(IDS), tmp_path / "x.zarr", **data, **fused)
    params = bundle.require_codebook().params
    assert params.fit["balanced"] is False
    assert params.fusion is not None
    assert params.fusion.collaborative is not None
    assert params.fusion.collaborative.dim == 6
    for keywords, message in (
        ({"fusion": FusionOptions(), "collaborative_dim": 6}, "are both given"),
        ({"method": "pq", "balanced": True}, "method pq has no option 'balanced'"),
        ({"options": BuildOptions(), "normalize": True}, "are both given"),
    ):
        with pytest.raises(UsageError, match=message):
            build_codebook(listed(IDS), tmp_path / "y.zarr", **{**data, **keywords})


@pytest.mark.parametrize(
    ("levels", "error", "message"),
    [
        ("2x2x2", UsageError, "would fill"),
        (f"{N + 1}x2x8", DataError, f"{N} items .*, and a level has {N + 1} codes"),
    ],
)
def test_levels_that_cannot_fit_the_items_are_refused_before_vectors_are_read(
    tmp_path: Path, levels: str, error: type[Exception], message: str
) -> None:
    progress = {stage: lambda *_: pytest.fail("it began") for stage in ("embed", "quantize")}
    for source in ({"embeddings": mixture(0, N, 10)}, {"encoder": "lexical"}):
        with pytest.raises(error, match=message):
            build_codebook(
                listed(IDS), tmp_path / "x.zarr", levels=levels, progress=progress, **source
            )


def test_one_source_is_a_file_a_table_or_a_tensor(tmp_path: Path) -> None:
    vectors = mixture(0, N, 8)
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "v.ids.txt").write_text("\n".join(IDS))
    options = {"levels": "4x4x8", "force": True}
    for source in (pd.DataFrame(vectors), torch.tensor(vectors)):
        bundle = build_codebook(listed(IDS), tmp_path / "x.zarr", embeddings=source, **options)
    codes = [encoding.codes for encoding in encode(bundle, vectors=vectors)]
    for embeddings in (str(tmp_path / "v.npy"), tmp_path.glob("v.npy"), [vectors], vectors):
        assert [encoding.codes for encoding in encode(bundle, embeddings=embeddings)] == codes
    by_texts = {"encoder": "lexical", "embeddings": None}
    assert len(build_codebook(listed(IDS), tmp_path / "x.zarr", **by_texts, **options)) == N


@pytest.mark.parametrize("text", ["", None, 7, float("nan")])
def test_what_is_no_text_is_not_encoded(text: Any) -> None:
    with pytest.raises(DataError, match=r"an empty text has no|a text is a string, not"):
        check_not_empty([text])


def test_texts_are_the_names_of_given_vectors() -> None:
    vectors = mixture(0, N, 8)
    bundle = Bundle.from_vectors(IDS, vectors, levels=(4, 4, 8))
    named = encode(bundle, pd.Series(["a", "b"], index=[1, 0]), vectors=vectors[:2])
    assert [encoding.text for encoding in named] == ["a", "b"]
    unnamed = encode(bundle, vectors=vectors[:2])
    assert [encoding.codes for encoding in named] == [encoding.codes for encoding in unnamed]
    assert [encoding.text for encoding in encode(bundle, "lamp", vectors=vectors[:1])] == ["lamp"]
    with pytest.raises(UsageError, match="3 texts for 2 vectors"):
        encode(bundle, ["a", "b", "c"], vectors=vectors[:2])
    for embeddings in (vectors[:1], ["vectors.npy"], "vectors.npy"):
        with pytest.raises(UsageError, match="give either embeddings or vectors"):
            encode(bundle, embeddings=embeddings, vectors=vectors[:2])


def test_several_sources_are_fused_and_all_required(tmp_path: Path) -> None:
    sources = [mixture(0, N, 10), mixture(1, N, 4)]
    options = BuildOptions((8, 8, 4), weights=(1.0, 3.0))
    bundle = build_codebook(listed(IDS), tmp_path / "shop.zarr", options, embeddings=sources)
    assert bundle.codebook.dims == (10, 4)
    assert (bundle.manifest.recipe or {})["encoder"] == {"vectors": "given", "dim": 14}
    assert "collaborative" not in (bundle.manifest.recipe or {})
    for number, rows in enumerate((sources[0], sources[1], sources[1][1:])):
        np.save(tmp_path / f"{number}.npy", rows)
    for names, message in ((("0",), "have 10 dimensions.* from 10 and 4"), (("0", "2"), "60 and")):
        with pytest.raises(UsageError, match=message):
            encode(bundle, embeddings=[tmp_path / f"{name}.npy" for name in names])
    other = BuildOptions((8, 8, 4), weights=(3.0, 1.0))
    reweighted = build_codebook(listed(IDS), tmp_path / "o.zarr", other, embeddings=sources)
    assert reweighted.identity != bundle.identity
    for wrong, message in (
        ([sources[0], sources[1][1:]], "59 vectors for 60 items"),
        (sources[0][:, 0], r"an array of shape \(60,\)"),
        (sources[0][:, :0], r"an array of shape \(60, 0\)"),
    ):
        with pytest.raises(DataError, match=message):
            build_codebook(listed(IDS), tmp_path / "x.zarr", options, embeddings=wrong)


def test_a_level_with_nearly_all_items_in_one_code_is_a_warning():
    spread = 5 * np.random.default_rng(0).standard_normal((15, 8))
    vectors = np.concatenate([np.zeros((190, 8)), spread]).astype(np.float32)
    ids = [f"i{row:03}" for row in range(len(vectors))]
    with pytest.warns(SidtoolWarning, match="level a .*: its 16 codes have a perplexity of 2;"):
        Bundle.from_vectors(ids, vectors, levels=(16,), collisions="allow")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"collisions": "drop"}, "collisions must be one of reassign, append, allow, not 'drop'"),
        ({"spelling": "x"}, "spelling must be one of openonerec, minionerec, not 'x'"),
        ({"method": "x"}, "method must be one of rq-kmeans, "),
        ({"sizes": (2,) * 26, "collisions": "append"}, "has 1 to 26 levels, not 27"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(choice, message):
    with pytest.raises(UsageError, match=message):
        BuildOptions(**choice)
