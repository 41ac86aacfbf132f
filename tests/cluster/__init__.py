"""Several instances on one Redis."""
