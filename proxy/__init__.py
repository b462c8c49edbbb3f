"""A caching gateway for image listings: Huawei Cloud IMS and OpenStack Glance."""

__version__ = "0.1.0"
