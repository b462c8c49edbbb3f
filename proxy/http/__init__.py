"""Pure rules of RFC 9110, 9111 and 9213 over messages."""
