"""Keystone's WSGI application, which reads the command line as it is imported: gunicorn's is hidden from it."""

import sys

sys.argv = ["keystone"]

from keystone.wsgi.api import application  # noqa: E402 - see above

__all__ = ["application"]
