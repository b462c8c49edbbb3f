"""The proxy in front of a real Glance, asked by the clients that people use."""
