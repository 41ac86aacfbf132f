"""Decides which client may do what: the access rules, origins, and the delay after wrong passwords."""
