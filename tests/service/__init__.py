"""Real components for the tests: each is started privately (own directories, free ports) and ended by its pid."""
