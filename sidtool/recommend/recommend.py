"""Recommendations: requests in, items out, in the order of the requests and in bounded memory.

Knows items, histories and how a served model is asked; knows nothing of how a beam works. The one
place of this package that touches the bundle, the contract and the prompt."""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sidtool.bundle.trie import Trie
from sidtool.errors import DataError, SidtoolWarning, UsageError
from sidtool.recommend.filters import Allowed, LeafFilter

if TYPE_CHECKING:
    from sidtool.recommend.beam import Found
    from sidtool.recommend.partial_head import Normalize

WINDOW = 512
"""Requests that are read ahead, so that prompts of similar length run together."""


@dataclass(frozen=True)
class Request:
    """What one user is recommended from: item ids, oldest first, or a text, or a prompt that is
    rendered already.

    A text is asked alone, without the history, which then only tells what has been seen. `deny`
    items are never given; where `allow` is a list, no others are."""

    user: str | None = None
    history: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    prompt: tuple[int, ...] | None = None
    text: str | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Request":
        """The request of a JSON object with `history` or `text` and, where wanted, `user`, `allow`
        and `deny`.

        Keys that are none of these are left alone (a test row has more). Raises DataError if one
        has the wrong type."""
        lists = {name: value.get(name) for name in ("history", "allow", "deny")}
        for name, found in lists.items():
            if found is not None and (
                not isinstance(found, list) or not all(isinstance(item, str) for item in found)
            ):
                raise DataError(
                    f"{name!r} of a request is a list of item ids, not {json.dumps(found)[:80]}"
                )
        text, user = value.get("text"), value.get("user")
        if text is not None and not isinstance(text, str):
            raise DataError(f"'text' of a request is a text, not {json.dumps(text)[:80]}")
        if lists["history"] is None and text is None:
            raise DataError(
                f"a request has the key 'history' or 'text', this one has {sorted(value)}"
            )
        allow = None if lists["allow"] is None else tuple(lists["allow"])
        history, deny = (tuple(lists[name] or ()) for name in ("history", "deny"))
        return cls(None if user is None else str(user), history, allow, deny, text=text)


@dataclass(frozen=True)
class Recommendation:
    """The answer to one request, best item first; items that share a SID lie together, in the
    bundle's order.

    `scores` are log-probabilities of the SIDs. `unknown` counts the ids of the history that the
    bundle lacks."""

    user: str | None
    items: tuple[str, ...]
    scores: tuple[float, ...]
    sids: tuple[str, ...]
    titles: tuple[str, ...]
    unknown: int = 0

    def to_json(self) -> dict[str, Any]:
        """A JSON object of the fields."""
        return asdict(self)


def read_requests(lines: Iterable[str]) -> Iterator[Request]:
    """Requests of JSON Lines; blank lines are skipped. Raises DataError that names the line of a
    malformed one."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"line {number} of the requests is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise DataError(f"line {number} of the requests is no JSON object: {line.strip()[:80]}")
        try:
            json.dumps(value, ensure_ascii=False).encode()
            request = Request.from_json(value)
        except UnicodeEncodeError as error:  # a byte that is of no character, or half a character
            raise DataError(f"line {number} of the requests is not UTF-8") from error
        except DataError as error:
            raise DataError(f"line {number} of the requests: {error}") from error
        yield request


def finished_lines(path: Path) -> int:
    """Number of whole lines in the output of a killed run; a torn last line is cut off. 0 where
    there is no file."""
    if not path.exists():
        return 0
    count = whole = 0
    with path.open("rb+") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                count, whole = count + 1, whole + len(line)
        stream.truncate(whole)
    return count


def recommend(
    served: Any,
    requests: Iterable[Request],
    *,
    k: int = 10,
    width: int = 50,
    normalize: "Normalize | None" = None,
    exclude_seen: bool = False,
    allow: Sequence[str] | None = None,
    deny: Sequence[str] = (),
    token_budget: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Recommendation]:
    """Recommend k items for each request, in order, as they are read.

    k items come back whenever k may be given. Scores are normalized as the model was trained,
    unless `normalize` says otherwise. `exclude_seen` denies the items of the history; `allow` and
    `deny` hold for all requests, beside their own lists. History ids that the bundle lacks are
    skipped, and a SidtoolWarning at the end tells how many; a request that has no prompt without
    them gets no items. `progress` gets the number done, and 0 for a total that a stream does not
    have.

    Raises UsageError if k or width is less than 1, DataError on an allow or deny list that names no
    item of the bundle."""
    desk = _Desk(served, k, width, normalize, exclude_seen, allow, deny, token_budget)
    yield from _answers(desk.answer, requests, progress)


def score_items(
    served: Any,
    requests: Iterable[Request],
    candidates: Sequence[str],
    *,
    k: int = 10,
    normalize: "Normalize | None" = None,
    exclude_seen: bool = False,
    deny: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Recommendation]:
    """The k best of the candidates for each request, each scored exactly, whatever a beam would
    find.

    For cold items, whose codes a beam never reaches, and for another system's list. Filters and
    histories are `recommend`'s. Raises UsageError if k is less than 1, DataError on a candidate
    that the bundle does not know, or if none of them can be given."""
    desk = _Desk(served, k, k, normalize, exclude_seen, None, deny, None)
    rows = desk.items.rows(candidates)
    if (rows < 0).any():
        raise DataError(f"candidate {candidates[int((rows < 0).argmax())]!r} is not in the bundle")
    if desk.items.retired[rows].all():
        raise DataError(f"none of the {len(candidates)} candidates is an item that can be given")
    yield from _answers(lambda window: desk.score(window, np.unique(rows)), requests, progress)


def _answers(
    ask: Callable[[Sequence[Request]], Iterable[Recommendation]],
    requests: Iterable[Request],
    progress: Callable[[int, int], None] | None,
) -> Iterator[Recommendation]:
    """What is answered to each window of requests; at the end a warning of ids that were unknown."""
    stream, done, unknown = iter(requests), 0, 0
    while window := list(islice(stream, WINDOW)):
        for answer in ask(window):
            unknown += answer.unknown
            yield answer
        done += len(window)
        if progress is not None:
            progress(done, len(requests) if isinstance(requests, Sequence) else 0)
    if unknown:
        message = f"{unknown} ids in the histories are not in the bundle and were skipped"
        warnings.warn(message, SidtoolWarning, stacklevel=2)


class _Desk:
    """What all requests of a run share."""

    def __init__(
        self,
        served: Any,
        k: int,
        width: int,
        normalize: "Normalize | None",
        exclude_seen: bool,
        allow: Sequence[str] | None,
        deny: Sequence[str],
        token_budget: int | None,
    ) -> None:
        if k < 1 or width < 1:
            raise UsageError(f"k and width are at least 1, not {k} and {width}")
        self.served, self.k, self.width = served, k, width
        self.normalize = normalize or served.contract.normalize
        self.exclude_seen, self.token_budget = exclude_seen, token_budget
        self.items, self.trie = served.bundle.items, served.bundle.trie()
        self.allowed = None if allow is None else self._listed("allow", allow)
        self.denied = self.items.rows(deny) if len(deny) else np.zeros(0, dtype=np.int64)
        if len(deny) and (self.denied < 0).all():
            raise DataError(f"none of the {len(deny)} ids of the deny list is in the bundle")

    def _listed(self, name: str, ids: Sequence[str]) -> Allowed:
        allowed = Allowed.of(self.trie, self.items.rows(ids))
        if not len(allowed.positions):
            raise DataError(
                f"none of the {len(ids)} ids of the {name} list is an item that can be given"
            )
        return allowed

    def answer(self, requests: Sequence[Request]) -> list[Recommendation]:
        """Answers to some requests, in order."""
        from sidtool.recommend.beam import TOKEN_BUDGET, beam_search

        histories = [self.items.rows(request.history) for request in requests]
        filters = [
            self._filter(request, rows) for request, rows in zip(requests, histories, strict=True)
        ]
        prompts = [
            self._prompt(request, rows) for request, rows in zip(requests, histories, strict=True)
        ]
        found = beam_search(
            self.served.model,
            prompts,
            self.trie,
            self.served.tokens,
            width=self.width,
            k=self.k,
            normalize=self.normalize,
            filters=filters,
            token_budget=self.token_budget or TOKEN_BUDGET,
        )
        answers = zip(requests, histories, found, filters, strict=True)
        return [
            self._recommendation(request, rows, one, filter_)
            for request, rows, one, filter_ in answers
        ]

    def score(
        self, requests: Sequence[Request], candidates: np.ndarray[Any, Any]
    ) -> Iterator[Recommendation]:
        """Answers to some requests from (m,) sorted rows of candidates, in order."""
        from sidtool.recommend.score import score

        histories = [self.items.rows(request.history) for request in requests]
        prompts = [
            self._prompt(request, rows) for request, rows in zip(requests, histories, strict=True)
        ]
        codes, tokens = self.items.codes[candidates], self.served.tokens
        scores = score(
            self.served.model, prompts, codes, tokens, normalize=self.normalize, trie=self.trie
        )
        for request, history, mine in zip(requests, histories, scores, strict=True):
            own = None if request.allow is None else self.items.rows(request.allow)
            denied = [
                self.denied,
                self.items.rows(request.deny),
                *([history] if self.exclude_seen else []),
            ]
            keep = ~np.isin(candidates, np.concatenate(denied)) & ~self.items.retired[candidates]
            keep &= (
                np.isfinite(mine) if own is None else np.isfinite(mine) & np.isin(candidates, own)
            )
            best = np.flatnonzero(keep)[np.argsort(-mine[keep], kind="stable")][: self.k]
            yield self._told(request, history, candidates[best].tolist(), mine[best].tolist())

    def _prompt(self, request: Request, rows: np.ndarray[Any, Any]) -> Sequence[int]:
        if request.prompt is not None:
            return request.prompt
        from sidtool.prompt.assemble import history_prompt_ids, text_prompt_ids

        if request.text is not None:
            text_prompt = self.served.contract.text_prompt
            if text_prompt is None:
                raise DataError(
                    "the model was never taught to go from a text to an item",
                    hint="make-sft --task title-to-sid=1 or query-to-sid=1, then train",
                )
            return text_prompt_ids(
                text_prompt, self.served.tokenizer, self.served.tokens, request.text
            )
        history_prompt = self.served.contract.history_prompt
        if history_prompt is None:
            raise DataError(
                "the model does not say how it is served",
                hint="`sidtool train` teaches it, and notes it",
            )
        known = rows[rows >= 0]
        titles = [self.items.title(row) for row in known.tolist()]
        return history_prompt_ids(
            history_prompt,
            self.served.tokenizer,
            self.served.tokens,
            self.items.codes[known],
            titles,
        )

    def _filter(self, request: Request, history: np.ndarray[Any, Any]) -> LeafFilter | None:
        allowed = self.allowed
        if request.allow is not None:
            own = Allowed.of(self.trie, self.items.rows(request.allow))
            allowed = own if allowed is None else own.within(self.trie, allowed)
        denied = [
            self.denied,
            self.items.rows(request.deny),
            *([history] if self.exclude_seen else []),
        ]
        if allowed is None and not any(map(len, denied)):
            return None
        return LeafFilter.of(self.trie, allowed, np.concatenate(denied))

    def _recommendation(
        self,
        request: Request,
        history: np.ndarray[Any, Any],
        found: "Found",
        filter_: LeafFilter | None,
    ) -> Recommendation:
        rows, scores = [], []
        for leaf, score in zip(found.leaves.tolist(), found.scores.tolist(), strict=True):
            for row in _rows(self.trie, leaf, filter_):
                rows.append(int(row))
                scores.append(score)
        return self._told(request, history, rows[: self.k], scores[: self.k])

    def _told(
        self,
        request: Request,
        history: np.ndarray[Any, Any],
        rows: Sequence[int],
        scores: Sequence[float],
    ) -> Recommendation:
        return Recommendation(
            user=request.user,
            items=tuple(self.items.ids[row] for row in rows),
            scores=tuple(scores),
            sids=tuple(self.served.tokens.space.spell(self.items.codes[row]) for row in rows),
            titles=tuple(self.items.title(row) for row in rows),
            unknown=int((history < 0).sum()),
        )


def _rows(trie: Trie, leaf: int, filter_: LeafFilter | None) -> list[int]:
    rows = trie.leaf_rows(leaf) if filter_ is None else filter_.rows(leaf)
    return [int(row) for row in rows]
