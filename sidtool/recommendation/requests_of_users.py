"""Requests of users: each with the whole history of the user in a file of events or a split, and
with the fields that a split has of it."""

from collections.abc import Sequence
from pathlib import Path

from sidtool.base.errors import DataError
from sidtool.data.columns import EventColumns
from sidtool.data.split.histories import History, user_histories
from sidtool.recommendation.requests import BadRequest, Request


def user_requests(
    events: Path, users: Sequence[str] | None = None, *, recorded: EventColumns | None = None
) -> list[Request | BadRequest]:
    """A request of each of `users`, in their order, or of all users; a user without events becomes
    a BadRequest. Arguments and errors as in `user_histories`."""
    histories = user_histories(events, recorded=recorded)
    if users is None:
        return [_request(user, history) for user, history in histories.items()]
    requests: list[Request | BadRequest] = []
    for user in users:
        if user in histories:
            requests.append(_request(user, histories[user]))
        else:
            error = DataError(f"user {user!r} has no events in {events}")
            requests.append(BadRequest(error, None, user))
    return requests


def _request(user: str, history: History) -> Request:
    items, fields = history
    return Request(user, items, fields=fields)
