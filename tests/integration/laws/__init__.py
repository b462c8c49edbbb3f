"""The laws of the design that need time and chance to break: staleness, own writes, joined pages."""
