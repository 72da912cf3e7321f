"""A small installation whose every step a test decides: real rows, bundles, streams and actors, no threads."""
