"""Programs that the tests start and drive: the proxy itself, a Redis, a Glance and its clients."""
