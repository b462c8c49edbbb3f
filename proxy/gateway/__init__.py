"""Routes a request to the engine that answers it; admission, writes, re-authorization."""
