"""Client-facing HTTP on aiohttp: connections, the fast path, requests and responses."""
