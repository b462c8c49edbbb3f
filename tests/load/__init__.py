"""Many concurrent callers, each part in a process of its own: an upstream that counts, proxies, a load generator."""
