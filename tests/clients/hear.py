"""python hear.py CLIENT URL: prints each event that a client hands its user, a JSON object a line: type, data, id.

Each comes back as its documentation says. sseclient and sseclient-py are two packages of one
module: the first is a file, which the second's folder hides, so it is loaded by its path.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

RETRY = 0.5  # seconds, where the client leaves it to its user


def tell(kind: str | None, data: str, id: str | None) -> None:
    """One event, as the user was given it."""
    print(json.dumps({"type": kind or "message", "data": data, "id": id or ""}), flush=True)


def httpx_sse(url: str) -> None:
    """It has no reconnecting of its own: the user sends the last id again."""
    import httpx
    from httpx_sse import connect_sse

    last = ""
    while True:
        try:
            with httpx.Client(timeout=None) as link:
                with connect_sse(link, "GET", url, headers={"Last-Event-ID": last} if last else {}) as source:
                    for event in source.iter_sse():
                        tell(event.event, event.data, event.id)
                        last = event.id
        except httpx.TransportError:
            pass
        time.sleep(RETRY)


def sseclient_py(url: str) -> None:
    """It reads a response, and has no reconnecting of its own either."""
    import requests
    import sseclient

    last = ""
    while True:
        try:
            answer = requests.get(url, stream=True, headers={"Last-Event-ID": last} if last else {})
            for event in sseclient.SSEClient(answer).events():
                tell(event.event, event.data, event.id)
                last = event.id or last
        except requests.RequestException:
            pass
        time.sleep(RETRY)


def sseclient(url: str) -> None:
    """It comes back when a stream ends, but not when it is refused then: the user begins anew with last_id."""
    import requests

    path = next(path for folder in sys.path if (path := Path(folder) / "sseclient.py").is_file())
    spec = importlib.util.spec_from_file_location("sseclient_of_btubbs", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.print = lambda *_: None  # it prints what it comes back from
    last = None
    while True:
        try:
            source = module.SSEClient(url, last_id=last)
            for event in source:
                tell(event.event, event.data, event.id)
                last = source.last_id
        except requests.RequestException:
            time.sleep(RETRY)


async def _aiohttp_sse_client2(url: str) -> None:
    import aiohttp
    from aiohttp_sse_client2.client import EventSource

    last = ""
    while True:
        try:
            headers = {"Last-Event-ID": last} if last else {}
            timeout = aiohttp.ClientTimeout(total=None)
            async with EventSource(url, max_connect_retry=5, headers=headers, timeout=timeout) as source:
                async for event in source:
                    tell(event.type, event.data, event.last_event_id)
                    last = event.last_event_id
        except (aiohttp.ClientError, ConnectionError):
            await asyncio.sleep(RETRY)


def aiohttp_sse_client2(url: str) -> None:
    """It comes back when a stream ends, but not when it is refused then: the user begins anew."""
    asyncio.run(_aiohttp_sse_client2(url))


if __name__ == "__main__":
    globals()[sys.argv[1].replace("-", "_")](sys.argv[2])
