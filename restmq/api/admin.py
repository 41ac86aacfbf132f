"""Administering: a queue's policy, its flow and its settings.

Owns what changes how a queue behaves; knows of the core only its verbs. What a
setting may be stands in model/settings.py, looking at a queue's contents in api/stats.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from restmq.api.services import BrokerHandler
from restmq.api.stats import LOOK, named, together
from restmq.http.handler import Answer, is_object, name
from restmq.model import options, settings
from restmq.model.errors import BadOption
from restmq.model.settings import SETTINGS
from restmq.model.suggest import hint

CHANGE = "admin"
DONE = {True: "started", False: "stopped"}
SCOPES = ("live", "pull", "add")


class Policy(BrokerHandler):
    """/p/NAME."""

    old = True
    sections: ClassVar = {"GET": LOOK, "POST": CHANGE}

    async def get(self, raw: bytes) -> Answer:
        """The policy of a queue."""
        queue = name(raw)
        self.options({})
        return self.json({"queue": queue.decode("utf-8"), "value": await self.services.core.settings.policy(queue)})

    async def post(self, raw: bytes) -> bytes:
        """Set it."""
        queue = name(raw)
        self.options({}, ("policy",))
        policy = self.field(b"policy")
        if policy not in (b"broadcast", b"roundrobin"):
            raise BadOption("policy is broadcast or roundrobin; send it as a form field: -d policy=roundrobin")
        await self.services.core.settings.set_policy(queue, policy.decode())
        self.did("set the policy of {queue} to {policy}", queue=queue.decode("utf-8"), policy=policy.decode())
        return b"OK\r\n"


def _what(text: str) -> tuple[str, ...]:
    """Scopes of a stop: live, pull, add, or all. Raises BadOption."""
    words = text.split(",")
    for word in words:
        if word not in (*SCOPES, "all"):
            meant = hint(word, (*SCOPES, "all"))
            raise BadOption(f"what is live, pull, add or all, or several with commas, not {word[:40]!a}; {meant}")
    return SCOPES if "all" in words else tuple(scope for scope in SCOPES if scope in words)


def _lasting(text: str) -> int:
    """How long a stop lasts, in ms. Raises BadOption."""
    value = options.milliseconds("for", text)
    if not 0 < value <= options.YEAR:
        raise BadOption("for must be above 0 and at most 366 days")
    return value


def _flow(queue: bytes, status: int, stops: Mapping[str, float | None]) -> dict[str, object]:
    """A queue's flow as the first RestMQ showed it; with its stops when something is stopped that it did not know."""
    shown: dict[str, object] = {"queue": queue.decode("utf-8"), "status": status}
    if any(scope != "live" or left is not None for scope, left in stops.items()):
        shown["stops"] = stops
    return shown


class Control(BrokerHandler):
    """/control/NAME."""

    old = True
    sections: ClassVar = {"GET": LOOK, "POST": CHANGE}

    async def get(self, raw: bytes) -> Answer:
        """Whether elements flow."""
        queue = name(raw)
        self.options({})
        core = self.services.core
        status, stops = await together([core.settings.status(queue), core.settings.stops(queue)])
        return self.json(
            {"queue": queue.decode("utf-8"), "status": _flow(queue, status, stops), "redis": core.redis_name}
        )

    async def post(self, raw: bytes) -> Answer:
        """Stop or start flows."""
        queue, core = name(raw), self.services.core
        asked = self.options({"what": _what, "for": _lasting}, ("status",))
        status = self.field(b"status")
        if status not in (b"start", b"stop"):
            raise BadOption("status is start or stop; send it as a form field: -d status=stop")
        started = status == b"start"
        if started and "for" in asked:
            raise BadOption("`for` goes with status=stop: a flow that was started goes on until it is stopped")
        self.jsonp(b"")
        if started:  # all that is stopped: starting what was never stopped would cost the queue its fast path
            there = await core.settings.stops(queue)
            scopes = asked.get("what", SCOPES)
            changed = [scope for scope in scopes if scope in there or scope == "live"]
        else:
            changed = scopes = asked.get("what", ("live",))
        if changed:
            await core.settings.set_status(queue, started, changed, asked.get("for", 0))
        told = f" ({','.join(scopes)})" if asked else ""
        self.did("{done} the flow of {queue}{told}", done=DONE[started], queue=queue.decode("utf-8"), told=told)
        shown: dict[str, object] = {"queue": queue.decode("utf-8"), "status": int(started)}
        if asked:
            live, stops = await together([core.settings.status(queue), core.settings.stops(queue)])
            shown = {**shown, "status": live, "stops": stops}
        return self.json({"stat": shown})


class Controls(BrokerHandler):
    """/control/."""

    sections: ClassVar = {"GET": LOOK}

    async def get(self) -> Answer:
        """The flow of all queues."""
        names, core = await named(self), self.services.core
        statuses = await together([core.settings.status(queue) for queue in names])
        stops = await together([core.settings.stops(queue) for queue in names])
        queues = {queue.decode("utf-8"): _flow(queue, *told) for queue, *told in zip(names, statuses, stops)}
        return self.json({"count": len(queues), "queues": queues, "redis": core.redis_name})


class Settings(BrokerHandler):
    """/settings/NAME."""

    body = "own"
    sections: ClassVar = {"GET": LOOK, "POST": CHANGE}

    async def get(self, raw: bytes) -> Answer:
        """Every setting, and which of them the queue was told itself."""
        queue = name(raw)
        self.options({})
        return await self._shown(queue)

    async def post(self, raw: bytes) -> Answer:
        """Change settings, all or none."""
        queue = name(raw)
        changed = settings.checked(self._given())
        if not changed:
            raise BadOption(f"there is nothing to set; known are {', '.join(SETTINGS)}")
        self.jsonp(b"")
        await self.services.core.settings.set(queue, changed)
        told = ", ".join(
            f"{word} to {SETTINGS[word].show(text) if text else 'its default'}" for word, text in changed.items()
        )
        self.did("set {told} of {queue}", told=told, queue=queue.decode("utf-8"))
        return await self._shown(queue)

    def _given(self) -> list[tuple[str, str | None]]:
        """The settings in query, headers and body, in that order of weight. Raises BadOption, BadRequest."""
        body, form = self.request.body, self.request.fields.form
        told = self.options(dict.fromkeys(SETTINGS, str))
        given: list[tuple[str, str | None]]
        if is_object(body) or (body and not form):  # curl -d says of any body that it is a form
            given = settings.of_json(body)
        else:  # an empty field is no option, but takes a setting back
            fields = self.request.form
            given = [(word.decode("utf-8", "replace"), value.decode("utf-8", "replace")) for word, value in fields]
        return [*((word, told.pop(word, text)) for word, text in given), *told.items()]

    async def _shown(self, queue: bytes) -> Answer:
        core = self.services.core
        told, policy = await together([core.settings.own(queue), core.settings.policy(queue)])
        shown = settings.shown(told, {**self.services.config.queues, "policy": policy})
        own = [word for word in shown if word in told]
        return self.json({"queue": queue.decode("utf-8"), "settings": shown, "own": own})
