"""Where spans are kept: process memory or Redis, behind one protocol."""
