"""What a client sees: one instance, real requests."""
