"""A real OpenStack Glance: its environment, its configuration, its server and its images."""
