"""The only part that speaks to Redis: links, calls, replies, and the functions in lua/."""
