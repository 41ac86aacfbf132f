"""The three transports of live consumers: Comet, Server-Sent Events, WebSockets."""
