"""RestMQ's additions to Twisted: coroutines, writing, ticking, plain files. Knows nothing of queues."""
