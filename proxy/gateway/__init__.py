"""From question to answer, one request each. Knows neither aiohttp nor redis."""
