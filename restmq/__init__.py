"""RestMQ: a message broker over HTTP. Start reading in web.py: docs/architecture.md has the way from there."""

__version__ = "1.0.0"
