"""An image service that behaves like Huawei Cloud IMS, in memory and on loopback.

It stands behind ``ims-proxy demo`` and is the witness of the property tests: what the proxy says about a listing is
compared with what this says. So it imports nothing else of the project, and shares none of its code or mistakes.

The list semantics are those of Glance (``api/v2/images.py``, ``db/sqlalchemy/api.py``), the attributes, error bodies
and throttling those of the IMS API reference.
"""
