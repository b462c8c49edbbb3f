"""The way to the upstream: the only place that opens connections to it."""
