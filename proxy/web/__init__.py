"""The aiohttp surface: what callers and operators connect to."""
