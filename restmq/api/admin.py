"""Administration: a queue's policy, its flow and its settings.

Owns the requests that change how a queue behaves. Of the store it calls only the verbs. model/settings.py says which
values a setting takes; api/stats.py looks at a queue's contents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypedDict, cast

from restmq.api.services import BrokerHandler
from restmq.api.stats import LOOK, named, together
from restmq.http.handler import Answer, path_queue
from restmq.http.options import is_object
from restmq.model import options, settings
from restmq.model.errors import BadOption
from restmq.model.settings import SETTINGS
from restmq.model.suggest import hint

CHANGE = "admin"
DONE = {True: "started", False: "stopped"}
SCOPES = ("live", "pull", "add")


#: The options of POST /control/NAME; `for`, which cannot be a name in a class, is in ms.
ControlOptions = TypedDict("ControlOptions", {"what": tuple[str, ...], "for": int}, total=False)


class Policy(BrokerHandler):
    """/p/NAME."""

    old = True
    sections: ClassVar = {"GET": LOOK, "POST": CHANGE}

    async def get(self, raw: bytes) -> Answer:
        """Answer the policy of a queue."""
        queue = path_queue(raw)
        self.options({})
        return self.json({"queue": queue.decode("utf-8"), "value": await self.services.core.settings.policy(queue)})

    async def post(self, raw: bytes) -> bytes:
        """Set the policy."""
        queue = path_queue(raw)
        self.options({}, ("policy",))
        policy = self.field(b"policy")
        if policy not in (b"broadcast", b"roundrobin"):
            raise BadOption("policy must be broadcast or roundrobin; send it as a form field: -d policy=roundrobin")
        await self.services.core.settings.set_policy(queue, policy.decode())
        self.log_change("set the policy of {queue} to {policy}", queue=queue.decode("utf-8"), policy=policy.decode())
        return b"OK\r\n"


def _what(text: str) -> tuple[str, ...]:
    """The scopes of a stop: live, pull, add, or all. Raises BadOption."""
    words = text.split(",")
    for word in words:
        if word not in (*SCOPES, "all"):
            meant = hint(word, (*SCOPES, "all"))
            raise BadOption(f"what must be live, pull, add or all, or several with commas, not {word[:40]!a}; {meant}")
    return SCOPES if "all" in words else tuple(scope for scope in SCOPES if scope in words)


def _lasting(text: str) -> int:
    """How long a stop lasts, in ms. Raises BadOption."""
    value = options.milliseconds("for", text)
    if not 0 < value <= options.YEAR:
        raise BadOption("for must be above 0 and at most 366 days")
    return value


def _flow(queue: bytes, status: int, stops: Mapping[str, float | None]) -> dict[str, object]:
    """A queue's flow as the first RestMQ showed it.

    If something is stopped that it did not know, the stops are added.
    """
    shown: dict[str, object] = {"queue": queue.decode("utf-8"), "status": status}
    if any(scope != "live" or left is not None for scope, left in stops.items()):
        shown["stops"] = stops
    return shown


class Control(BrokerHandler):
    """/control/NAME."""

    old = True
    sections: ClassVar = {"GET": LOOK, "POST": CHANGE}

    async def get(self, raw: bytes) -> Answer:
        """Answer whether elements flow."""
        queue = path_queue(raw)
        self.options({})
        core = self.services.core
        status, stops = await together([core.settings.status(queue), core.settings.stops(queue)])
        return self.json(
            {"queue": queue.decode("utf-8"), "status": _flow(queue, status, stops), "redis": core.redis_name}
        )

    async def post(self, raw: bytes) -> Answer:
        """Stop or start flows."""
        queue, core = path_queue(raw), self.services.core
        asked = cast(ControlOptions, self.options({"what": _what, "for": _lasting}, ("status",)))
        status = self.field(b"status")
        if status not in (b"start", b"stop"):
            raise BadOption("status must be start or stop; send it as a form field: -d status=stop")
        started = status == b"start"
        if started and "for" in asked:
            raise BadOption("`for` goes with status=stop: a flow that was started goes on until it is stopped")
        self.jsonp(b"")
        if started:  # starts only stopped flows, because starting any other would cost the queue its fast path
            there = await core.settings.stops(queue)
            scopes = asked.get("what", SCOPES)
            changed = tuple(scope for scope in scopes if scope in there or scope == "live")
        else:
            changed = scopes = asked.get("what", ("live",))
        if changed:
            await core.settings.set_status(queue, started, changed, asked.get("for", 0))
        which = f" ({','.join(scopes)})" if asked else ""
        self.log_change(
            "{done} the flow of {queue}{which}", done=DONE[started], queue=queue.decode("utf-8"), which=which
        )
        shown: dict[str, object] = {"queue": queue.decode("utf-8"), "status": int(started)}
        if asked:
            live, stops = await together([core.settings.status(queue), core.settings.stops(queue)])
            shown = {**shown, "status": live, "stops": stops}
        return self.json({"stat": shown})


class Controls(BrokerHandler):
    """/control/."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self) -> Answer:
        """Answer the flow of all queues."""
        names, core = await named(self), self.services.core
        statuses = await together([core.settings.status(queue) for queue in names])
        stops = await together([core.settings.stops(queue) for queue in names])
        queues = {queue.decode("utf-8"): _flow(queue, *flow) for queue, *flow in zip(names, statuses, stops)}
        return self.json({"count": len(queues), "queues": queues, "redis": core.redis_name})


class Settings(BrokerHandler):
    """/settings/NAME."""

    body = "own"
    sections: ClassVar = {"GET": LOOK, "POST": CHANGE}

    async def get(self, raw: bytes) -> Answer:
        """Answer every setting, and which of them the queue has itself."""
        queue = path_queue(raw)
        self.options({})
        return await self._shown(queue)

    async def post(self, raw: bytes) -> Answer:
        """Change settings, all or none."""
        queue = path_queue(raw)
        changed = settings.checked(self._given())
        if not changed:
            raise BadOption(f"there is nothing to set; the settings are {', '.join(SETTINGS)}")
        self.jsonp(b"")
        await self.services.core.settings.set(queue, changed)
        changes = ", ".join(
            f"{name} to {SETTINGS[name].show(text) if text else 'its default'}" for name, text in changed.items()
        )
        self.log_change("set {changes} of {queue}", changes=changes, queue=queue.decode("utf-8"))
        return await self._shown(queue)

    def _given(self) -> list[tuple[str, str | None]]:
        """The settings in query, headers and body. The query counts most, then the headers, then the body.

        Raises BadOption, BadRequest.
        """
        body, form = self.request.body, self.request.fields.form
        asked = self.options(dict.fromkeys(SETTINGS, str))
        given: list[tuple[str, str | None]]
        if is_object(body) or (body and not form):  # curl -d calls every body a form
            given = settings.of_json(body)
        else:  # an empty field is not an option, but sets a setting back to its default
            fields = self.request.form
            given = [(name.decode("utf-8", "replace"), value.decode("utf-8", "replace")) for name, value in fields]
        return [*((name, asked.pop(name, text)) for name, text in given), *asked.items()]

    async def _shown(self, queue: bytes) -> Answer:
        core = self.services.core
        own, policy = await together([core.settings.own(queue), core.settings.policy(queue)])
        shown = settings.shown(own, {**self.services.config.queues, "policy": policy})
        return self.json(
            {"queue": queue.decode("utf-8"), "settings": shown, "own": [name for name in shown if name in own]}
        )
