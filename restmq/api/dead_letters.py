"""Dead elements: those whose tries are used up, kept until somebody decides.

Owns /dead: looking at them, sending them back, deleting them; knows of the core
only its verbs. How an element dies is lua/lib/lease.lua.
"""

from __future__ import annotations

import re
from typing import ClassVar

from restmq.api.services import BrokerHandler
from restmq.api.stats import LOOK, PEEKED, look, most
from restmq.http.handler import Answer, name
from restmq.http.request import Most
from restmq.model.element import parse_key
from restmq.model.errors import BadOption

KICKED = 10_000  # elements sent back by one request
NAMED = 1000  # keys in one request
LARGEST = 1 << 20  # bytes of a body: NAMED keys of the longest name, escaped
_KICK = re.compile(r"[1-9][0-9]{0,4}\Z", re.ASCII)


def _kick(text: str) -> int:
    if not _KICK.match(text) or int(text) > KICKED:
        raise BadOption(f"kick is how many are sent back, 1 to {KICKED}")
    return int(text)


class Dead(BrokerHandler):
    """/dead/NAME."""

    sections: ClassVar = {"GET": LOOK, "POST": "admin", "DELETE": "admin"}

    def most(self) -> Most:
        return Most(LARGEST, "a list of keys")

    async def get(self, raw: bytes) -> Answer:
        """The dead, oldest first, each with the reasons of its failed tries."""
        queue = name(raw)
        asked = self.options({"max": most, "after": lambda key: parse_key(key.encode("utf-8"), queue)})
        return await look(self, queue, "dead", asked.get("after", 0), asked.get("max", PEEKED))

    async def post(self, raw: bytes) -> Answer:
        """Send some back: they wait again, and their tries start anew."""
        queue = name(raw)

        def keys(text: str) -> list[int]:
            if text.count(",") >= NAMED:
                raise BadOption(f"keys are {NAMED} at the most; kick=N sends back the oldest N")
            return [parse_key(part.encode("utf-8"), queue) for part in text.split(",")]

        asked = self.options({"kick": _kick, "keys": keys})
        if len(asked) != 1:
            raise BadOption("say either kick=N, how many of the oldest, or keys=KEY,KEY,…, which")
        self.jsonp(b"")
        kicked = await self.services.core.kick(queue, asked.get("kick", 0), asked.get("keys", ()))
        word = queue.decode("utf-8")
        self.did("sent {count} dead elements of {queue} back", count=len(kicked), queue=word)
        return self.json({"queue": word, "kicked": [f"{word}:{number}" for number in kicked]})

    async def delete(self, raw: bytes) -> Answer:
        """Delete all dead elements of the queue."""
        queue = name(raw)
        self.options({})
        self.jsonp(b"")
        deleted = await self.services.core.bury(queue)
        self.did("deleted {count} dead elements of {queue}", count=deleted, queue=queue.decode("utf-8"))
        return self.json({"queue": queue.decode("utf-8"), "deleted": deleted})
