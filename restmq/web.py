"""Start reading here: the routes. Owns the routing table; each handler stands in a module of its own.

Read api/queue.py next, or broker.py, which puts all of it together.
"""

from __future__ import annotations

from typing import Any

from restmq.api import ack, admin, health, metrics, pages
from restmq.api import dead_letters as dead
from restmq.api import element as leases
from restmq.api import queue as rest
from restmq.api import stats as looking
from restmq.live import comet, sse, websocket

ROUTES: list[Any] = [
    (r"/", rest.Root),
    (r"/q/([^/]+)", rest.Queue),
    (r"/q/([^/]+)/take", rest.Take),
    (r"/q/([^/]+)/ack", ack.Ack),
    (r"/q/([^/]+)/([0-9]+)", leases.One),
    (r"/queue", pages.Form),
    (r"/c/([^/]+)", comet.CometHandler),
    (r"/sse/([^/]+)", sse.SseHandler),
    (r"/ws/([^/]+)", websocket.WebSocketHandler),
    (r"/p/([^/]+)", admin.Policy),
    (r"/control/?", admin.Controls),
    (r"/control/([^/]+)", admin.Control),
    (r"/stats/?", looking.AllStats),
    (r"/stats/([^/]+)", looking.Stats),
    (r"/settings/([^/]+)", admin.Settings),
    (r"/peek/([^/]+)", looking.Peek),
    (r"/dead/([^/]+)", dead.Dead),
    (r"/ledger/([^/]+)", looking.Ledger),
    (r"/metrics", metrics.Metrics),
    (r"/q/?", pages.Listing),
    (r"/j/([^/]+)", pages.Jobs),
    (r"/healthz", health.Health),
    (r"/readyz", health.Ready),
    (r"/robots\.txt", pages.Robots),
    (r"/openapi\.json", pages.Description),
    (r"/static/(.+)", pages.Static),
]
