"""A fleet of callers before one proxy or several: what it costs the upstream, and whether every answer is right."""
