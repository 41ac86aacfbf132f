"""Start reading here: the routes. Owns the routing table; each handler stands in a module of its own.

Read api/queue.py next, or broker.py, which puts all parts together.
"""

from __future__ import annotations

from restmq.api import ack, admin, dead_letters, element, health, metrics, pages, queue, stats
from restmq.http.handler import Handler
from restmq.live import comet, sse, websocket

ROUTES: list[tuple[str, type[Handler]]] = [
    (r"/", queue.Root),
    (r"/q/([^/]+)", queue.Queue),
    (r"/q/([^/]+)/take", queue.Take),
    (r"/q/([^/]+)/ack", ack.Ack),
    (r"/q/([^/]+)/([0-9]+)", element.One),
    (r"/queue", pages.Form),
    (r"/c/([^/]+)", comet.CometHandler),
    (r"/sse/([^/]+)", sse.SseHandler),
    (r"/ws/([^/]+)", websocket.WebSocketHandler),
    (r"/p/([^/]+)", admin.Policy),
    (r"/control/?", admin.Controls),
    (r"/control/([^/]+)", admin.Control),
    (r"/stats/?", stats.AllStats),
    (r"/stats/([^/]+)", stats.Stats),
    (r"/settings/([^/]+)", admin.Settings),
    (r"/peek/([^/]+)", stats.Peek),
    (r"/dead/([^/]+)", dead_letters.Dead),
    (r"/ledger/([^/]+)", stats.Ledger),
    (r"/metrics", metrics.Metrics),
    (r"/q/?", pages.Listing),
    (r"/j/([^/]+)", pages.Jobs),
    (r"/healthz", health.Health),
    (r"/readyz", health.Ready),
    (r"/robots\.txt", pages.Robots),
    (r"/openapi\.json", pages.Description),
    (r"/static/(.+)", pages.Static),
]
