"""What needs no instance and no Redis."""
