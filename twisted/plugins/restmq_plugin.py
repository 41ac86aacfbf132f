"""Tells twistd that there is `twistd restmq`. No __init__.py here: Twisted's plugins share one package."""

from twisted.application.service import ServiceMaker

restmq = ServiceMaker("RestMQ", "restmq.tap", "A message broker over HTTP.", "restmq")
