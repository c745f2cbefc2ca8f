from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import (
    DataError,
    IntegrityError,
    MissingPackageError,
    RefusedError,
    SidtoolWarning,
    UsageError,
)
from sidtool.data.items import make_items
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.encoder import lexical as room
from sidtool.tokenizer.encoder import model as models
from sidtool.tokenizer.encoder.lexical import LexicalEncoder, normalized
from sidtool.tokenizer.encoder.model import check_location, encoder_folder, load_encoder
from sidtool.tokenizer.encoder.settings import Encoder
from sidtool.tokenizer.make.build import BuildOptions, build
from sidtool.tokenizer.make.encode import recorded_encoder

COLORS = ("red", "blue", "green", "amber", "violet")
KINDS = ("lamp", "soap", "novel", "kettle")
TEXTS = [f"{color} {kind}, model {n}" for color in COLORS for kind in KINDS for n in range(15)]


def cosines(encoder: LexicalEncoder, text: str, others: list[str]) -> list[float]:
    vectors = encoder.vectors([text, *others])
    return (vectors[1:] @ vectors[0]).tolist()


def test_the_same_texts_give_the_same_encoder_and_vectors_of_length_one() -> None:
    encoder = LexicalEncoder.fit(TEXTS)
    assert encoder.record == LexicalEncoder.fit(TEXTS).record
    vectors = encoder.vectors(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    # a text alone, and in another order, has the same vector
    np.testing.assert_allclose(encoder.vectors(TEXTS[7:8])[0], vectors[7], atol=1e-6)
    np.testing.assert_allclose(encoder.vectors(TEXTS[::-1])[::-1], vectors, atol=1e-6)


def test_texts_with_common_words_are_near_also_when_misspelled() -> None:
    near, far = cosines(LexicalEncoder.fit(TEXTS), "violett kettles", ["violet kettle", "red soap"])
    assert near > 0.6
    assert far < 0.2


def test_the_components_are_those_of_an_exact_decomposition() -> None:
    blocks = list(room._feature_blocks(TEXTS))
    encoder = LexicalEncoder.fit(TEXTS)
    matrix = encoder._matrix(blocks)
    _, values, _ = np.linalg.svd(matrix.toarray(), full_matrices=False)
    strong = int((values > 0.05 * values[0]).sum())
    made = np.linalg.norm(matrix @ encoder.components[:, :strong].astype(np.float32), axis=0)
    np.testing.assert_allclose(made, values[:strong], rtol=2e-3)


@pytest.mark.parametrize("texts", [["one lamp"], ["a", "b"], ["same"] * 400])
def test_few_or_equal_texts_have_as_many_dimensions_as_their_rank(texts: list[str]) -> None:
    encoder = LexicalEncoder.fit(texts)
    encoder.check()
    assert encoder.dim == len(set(texts))


@pytest.mark.parametrize("texts", [["!", "?"], []])
def test_a_catalog_without_words_is_refused(texts: list[str]) -> None:
    with pytest.raises(DataError, match="no text has a letter or a number"):
        LexicalEncoder.fit(texts)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda hashes, idf, parts: (hashes[:0], idf[:0], parts[:0]), "no features"),
        (lambda hashes, idf, parts: (hashes[::-1], idf, parts), "feature_hash does not ascend"),
        (lambda hashes, idf, parts: (hashes, idf * np.nan, parts), "is not finite"),
    ],
)
def test_a_stored_encoder_of_other_values_is_refused(
    changed: Callable[..., Any], message: str
) -> None:
    whole = LexicalEncoder.fit(["one lamp"])
    with pytest.raises(ValueError, match=message):
        LexicalEncoder(*changed(whole.feature_hash, whole.idf, whole.components)).check()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ｃrème №５, 1.7-oz", " crème no5 1 7 oz "),
        ("STRASSE straße", " strasse strasse "),
        ("हिन्दी ٤٢", " हिन्दी 42 "),
        ("漢字、かな", " 漢字 かな "),
        ("lone \ud800 half", " lone half "),
        ("…", "  "),
    ],
)
def test_letters_marks_and_numbers_of_every_script_stay(text: str, words: str) -> None:
    assert normalized(text) == words


def test_a_language_without_spaces_is_compared_by_pairs_of_characters() -> None:
    texts = ["赤いランプ", "青いランプ", "赤い石鹸", "青い石鹸", "小説", "長編小説"]
    encoder = LexicalEncoder.fit(texts)
    lamp, soap, novel = cosines(encoder, "ランプの赤い", ["赤いランプ", "青い石鹸", "長編小説"])
    assert lamp > 0.8
    assert lamp > soap > novel - 1e-6


def test_a_large_catalog_is_sampled_and_features_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_FITTED", 280)
    monkeypatch.setattr(room, "MAX_FEATURES", 50)
    encoder = LexicalEncoder.fit(TEXTS)
    assert len(encoder.idf) == 50
    assert encoder.vectors(TEXTS).any(axis=1).all()


def test_texts_without_a_known_feature_are_counted() -> None:
    encoder = LexicalEncoder.fit(["red lamp", "red soap"])
    with pytest.warns(SidtoolWarning, match="2 of 3 texts have no word"):
        vectors = encoder.vectors(["黒", "red", "…"])
    assert vectors.any(axis=1).tolist() == [False, True, False]


def test_only_build_codebook_fits_an_encoder() -> None:
    check_location(Encoder("lexical"))
    with pytest.raises(UsageError, match="fitted to a catalog: only build-codebook does so"):
        load_encoder(Encoder("lexical"))
    with pytest.raises(UsageError, match="lexical has no pooling, prompt"):
        check_location(Encoder("lexical", prompt="find: "))


def test_minilm_is_the_folder_of_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_MINILM_PACKAGE", "encodings")
    monkeypatch.setattr(models, "require", lambda extra: None)
    assert encoder_folder(Encoder("minilm")).parts[-2:] == ("encodings", "model")
    monkeypatch.undo()
    monkeypatch.setattr("sidtool.base.extras.find_spec", lambda name: name[0] != "g" or None)
    with pytest.raises(MissingPackageError, match=r"pip install 'sidtool\[minilm\]'"):
        check_location(Encoder("minilm"))


def lexical_bundle() -> Bundle:
    encoder = LexicalEncoder.fit(TEXTS)
    ids = [f"i{row}" for row in range(len(TEXTS))]
    items = make_items(ids, TEXTS, TEXTS, fields={}, template="{title}")
    options = BuildOptions(sizes=(8, 8, 8))
    vectors = encoder.vectors(TEXTS)
    return build(items, [vectors], options, name="shop", encoder=encoder.record, lexical=encoder)


def test_the_encoder_is_part_of_the_identity_of_its_bundle() -> None:
    bundle = lexical_bundle()
    other = dict(bundle.arrays)
    other["encoder/idf"] = other["encoder/idf"] * np.float32(2)
    with pytest.raises(IntegrityError, match="encoder/idf is not the array that the recipe names"):
        _ = Bundle(bundle.manifest, other).lexical
    other["encoder/idf"] = other["encoder/idf"][1:]
    with pytest.raises(IntegrityError, match="arrays of the encoder have different lengths"):
        _ = Bundle(bundle.manifest, other).lexical


def test_a_bundle_is_encoded_by_its_own_encoder_alone() -> None:
    bundle = lexical_bundle()
    assert recorded_encoder(bundle, model="lexical") == Encoder("lexical")
    with pytest.raises(RefusedError, match="built with the encoder lexical, not with minilm"):
        recorded_encoder(bundle, model="minilm")
