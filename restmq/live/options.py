"""The queues and options that a stream's request asks for.

Owns NAMES in a path, and since, lease, prefetch and tap. Knows no connection. delivery/replay.py reads `since`. Read
live/consumer.py next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypedDict, cast

from restmq.api.services import BrokerHandler
from restmq.delivery import replay
from restmq.http.handler import path_queue
from restmq.model import options
from restmq.model.errors import BadName, BadOption
from restmq.model.suggest import near

MOST_QUEUES = 100


class Asked(TypedDict, total=False):
    """The options of a request as they were parsed; `lease` is in ms."""

    since: str
    lease: int
    prefetch: int
    tap: bool


class StreamOptions(NamedTuple):
    """The options of a stream.

    - `since` says where the stream goes on, for each queue.
    - `lease` is in ms, and `prefetch` is the number of elements that may be leased at a time.
    - `tap` shows every added element, and takes none.
    """

    since: dict[bytes, replay.Since] | None = None
    lease: int = 0
    prefetch: int = 1
    tap: bool = False


def queue_names(raw: bytes) -> list[bytes]:
    """The queues that NAMES in the undecoded path asks for, in its order.

    NAMES is one name, or up to 100 with commas between. Each name is percent-decoded and checked by itself, so a name
    cannot bring a comma in. Raises BadName.
    """
    parts = raw.split(b",")
    if len(parts) > MOST_QUEUES:
        raise BadName(f"there are {len(parts)} queue names; at most {MOST_QUEUES} are allowed on one connection")
    names = [path_queue(part) for part in parts]
    if len(set(names)) < len(names):
        twice = next(one for one in names if names.count(one) > 1)
        raise BadName(f"the queue {twice.decode('utf-8')} is named twice")
    return names


def _tap(text: str) -> bool:
    return options.switch("tap", text)


#: The options of a stream, with their parsers.
KNOWN: dict[str, Callable[[str], object]] = {
    "since": str,
    "lease": options.lease,
    "prefetch": options.prefetch,
    "tap": _tap,
}


def _check_last_id(handler: BrokerHandler) -> None:
    """Raise BadOption for a parameter that is meant to be the last id, but is misspelt or not on /sse."""
    names = [raw.decode("utf-8", "replace") for raw, _ in handler.request.query if handler.request.raw_query]
    unknown = next((name for name in names if name not in KNOWN and not handler.passes(name)), "")
    if unknown and near(unknown, (*KNOWN, "lastEventId")) == "lastEventId":
        meant = "did you mean 'lastEventId'?" if handler.passes("lastEventId") else "here since=ID gives the last ID"
        raise BadOption(f"the query parameter {unknown!a} is not known to this request; {meant}")


def stream_options(handler: BrokerHandler, queues: list[bytes], last_id: bytes = b"") -> StreamOptions:
    """Read the options of a stream. `last_id` is the one with which the client comes back. It counts more than `since`.

    Raises BadOption. For a tap, which also looks at elements, it raises Unauthorized or Forbidden.
    """
    if any(name == b"callback" for name, _ in handler.request.query):
        raise BadOption("callback is for plain JSON answers, not for a stream: read it line by line, or use /sse")
    _check_last_id(handler)
    asked = cast(Asked, handler.options(KNOWN))
    plain = "lease" not in asked and not asked.get("tap")
    since = asked.get("since", "").encode("utf-8")
    if "prefetch" in asked and "lease" not in asked:
        raise BadOption("prefetch bounds the leased elements, so it goes with lease")
    if last_id and plain:  # an EventSource comes back with its id, whatever its address says
        return StreamOptions(replay.returning(last_id, queues))
    if "lease" in asked and since:
        raise BadOption("since and lease do not go together: past broadcasts cannot be leased")
    if asked.get("tap") and (since or "lease" in asked):
        raise BadOption("a tap sees what is added from now on, and takes nothing: it goes neither with since nor lease")
    if asked.get("tap"):
        handler.allow("rest:consumer")
    return StreamOptions(
        replay.parse(since, queues) if since else None,
        asked.get("lease", 0),
        asked.get("prefetch", 1),
        asked.get("tap", False),
    )
