"""The functions in Redis, and the links to it."""
