"""Settings from file, environment and flags; their checks; files that are read again."""
