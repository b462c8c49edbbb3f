"""Programs that page through images with the clients people use; each runs in the environment of Glance."""
