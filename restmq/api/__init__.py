"""The handlers of requests that are answered once: queues, elements, commands, pages, metrics."""
