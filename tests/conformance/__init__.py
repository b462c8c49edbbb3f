"""A public suite of tests for HTTP caches, run against the proxy and, for the document, beside other caches."""
