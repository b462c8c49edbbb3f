"""What both engines need: request collapsing, background tasks, bounded caches."""
