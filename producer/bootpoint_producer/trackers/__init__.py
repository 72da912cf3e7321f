"""Ways to find out which blocks changed since the base."""
