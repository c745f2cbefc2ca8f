"""Rows from the words of a code's items, against loops over items and tokens."""

import numpy as np
import pytest
import torch

from sidtool.model.extend import level_points, title_tokens
from tests.bundles import small_bundle
from tests.models import tiny_tokenizer

torch.set_num_threads(1)


def test_a_point_is_the_mean_of_the_mean_token_rows_of_the_titles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sidtool.model.extend.BATCH", 7)
    bundle = small_bundle(20, (4, 5, 6))
    bundle.items.retired[:3] = True
    tokenizer = tiny_tokenizer()
    n_rows = 300  # some tokens of the titles have no row
    rows = np.random.default_rng(0).normal(size=(n_rows, 6)).astype(np.float32)
    points = level_points(bundle, title_tokens(bundle.items, tokenizer, n_rows), rows)
    for level, size in enumerate((4, 5, 6)):
        means = {}
        for code in range(size):
            of_items = []
            for row in range(3, 20):
                ids = tokenizer.encode(bundle.items.title(row), add_special_tokens=False)
                ids = [token for token in ids if token < n_rows]
                if bundle.items.codes[row, level] == code and ids:
                    of_items.append(rows[ids].mean(axis=0))
            if of_items:
                means[code] = np.mean(of_items, axis=0)
        for code in range(size):
            want = means.get(code, np.mean(list(means.values()), axis=0))
            np.testing.assert_allclose(points[level][code], want, atol=1e-5)
