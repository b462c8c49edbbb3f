"""Counts how many modules of the proxy a request enters: `make hops`."""
