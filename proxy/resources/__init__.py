"""Single resources, cached by RFC 9111."""
