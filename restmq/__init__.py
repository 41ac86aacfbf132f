"""RestMQ: a message broker over HTTP. Start reading in web.py, or in model/errors.py and go down the list."""

__version__ = "1.0.0"
