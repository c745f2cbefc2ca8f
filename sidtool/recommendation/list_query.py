"""Queries whose answers are lists: the one caller of the list decoder."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from sidtool.base.errors import UsageError
from sidtool.recommendation.query import Query, QuerySession
from sidtool.recommendation.search.list_options import ListOptions
from sidtool.recommendation.search.results import EMPTY_LIST, ItemList


def check_lists(session: QuerySession) -> None:
    """Raise UsageError if the session would mix answers with a memory."""
    if session.mixture is not None:
        raise UsageError(
            "lists are those of the model alone: they are not mixed with a memory",
            hint="--memory-weight 0 leaves the memory out",
        )


def search_lists(
    session: QuerySession,
    model: Any,
    queries: Sequence[Query],
    *,
    length: int,
    num_beams: int,
    options: ListOptions,
) -> list[ItemList]:
    """The list of each query: of `length` items, or all that its filter leaves. Draws follow from
    the seed of the options and the query's prompt.

    Raises as `list_decoder.list_search.search_lists`, and UsageError if the session has a memory.
    """
    found = search_distinct_lists(
        session, model, queries, length=length, num_beams=num_beams, options=options, n_lists=1
    )
    return [lists[0] if lists else EMPTY_LIST for lists in found]


def search_distinct_lists(
    session: QuerySession,
    model: Any,
    queries: Sequence[Query],
    *,
    length: int,
    num_beams: int,
    options: ListOptions,
    n_lists: int,
) -> list[list[ItemList]]:
    """As `search_lists`, but up to `n_lists` lists of each query, distinct as sequences of SIDs."""
    from sidtool.recommendation.search.list_search import search_lists as search

    check_lists(session)
    prompts = [query.prompt for query in queries]
    return search(
        model,
        prompts,
        session.trie,
        session.tokens,
        length=length,
        num_beams=num_beams,
        n_lists=n_lists,
        options=options,
        normalize=session.normalize,
        filters=[query.leaf_filter for query in queries],
        codebook=session.bundle.codebook if options.mmr else None,
        seeds=[_prompt_seed(options.seed, prompt) for prompt in prompts],
    )


def _prompt_seed(seed: int, prompt: Sequence[int]) -> int:
    """A seed of 63 bits for the draws of one prompt: the same in any batch and place."""
    digest = hashlib.sha256(np.array([seed, *prompt], dtype=np.int64).tobytes()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
