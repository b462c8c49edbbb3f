"""The rate-limit shield: what the upstream gets to see, and what callers do meanwhile."""
