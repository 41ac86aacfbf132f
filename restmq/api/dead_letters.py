"""Dead elements: their tries are used up, and they are kept until an operator decides.

Owns /dead: looking at dead elements, sending them back, and deleting them. Of the store it calls only the verbs.
lua/lib/leases.lua says how an element dies.
"""

from __future__ import annotations

import re
from typing import ClassVar, TypedDict, cast

from restmq.api.services import BrokerHandler
from restmq.api.stats import LOOK, PEEKED, look
from restmq.http.handler import Answer, path_queue
from restmq.http.request import BodyLimit
from restmq.model.element import parse_key
from restmq.model.errors import BadOption
from restmq.model.options import at_most

KICKED = 10_000  # most elements sent back by one request
NAMED = 1000  # most keys in one request
LARGEST = 1 << 20  # most bytes of a body: NAMED keys of the longest name, escaped
_KICK = re.compile(r"[1-9][0-9]{0,4}\Z", re.ASCII)


def _kick(text: str) -> int:
    if not _KICK.match(text) or int(text) > KICKED:
        raise BadOption(f"kick is the number of elements to send back, 1 to {KICKED}")
    return int(text)


class KickOptions(TypedDict, total=False):
    """The options of POST /dead/NAME, of which one is given."""

    kick: int
    keys: list[int]


class Dead(BrokerHandler):
    """/dead/NAME."""

    sections: ClassVar = {"GET": LOOK, "POST": "admin", "DELETE": "admin"}

    def body_limit(self) -> BodyLimit:
        return BodyLimit(LARGEST, "a list of keys")

    async def get(self, raw: bytes) -> Answer:
        """Answer the dead elements, oldest first, each with the reasons of its failed tries."""
        queue = path_queue(raw)
        asked = self.options({"max": at_most, "after": lambda key: parse_key(key.encode("utf-8"), queue)})
        return await look(self, queue, "dead", asked.get("after", 0), asked.get("max", PEEKED))

    async def post(self, raw: bytes) -> Answer:
        """Send some back: they wait again, and their tries are counted from the beginning."""
        queue = path_queue(raw)

        def keys(text: str) -> list[int]:
            if text.count(",") >= NAMED:
                raise BadOption(f"at most {NAMED} keys are allowed; kick=N sends back the oldest N")
            return [parse_key(part.encode("utf-8"), queue) for part in text.split(",")]

        asked = cast(KickOptions, self.options({"kick": _kick, "keys": keys}))
        if len(asked) != 1:
            raise BadOption("send either kick=N for the oldest N, or keys=KEY,KEY,… for these")
        self.jsonp(b"")
        kicked = await self.services.core.kick(queue, asked.get("kick", 0), asked.get("keys", ()))
        name = queue.decode("utf-8")
        self.log_change("sent {count} dead elements of {queue} back", count=len(kicked), queue=name)
        return self.json({"queue": name, "kicked": [f"{name}:{number}" for number in kicked]})

    async def delete(self, raw: bytes) -> Answer:
        """Delete all dead elements of the queue."""
        queue = path_queue(raw)
        self.options({})
        self.jsonp(b"")
        deleted = await self.services.core.bury(queue)
        self.log_change("deleted {count} dead elements of {queue}", count=deleted, queue=queue.decode("utf-8"))
        return self.json({"queue": queue.decode("utf-8"), "deleted": deleted})
