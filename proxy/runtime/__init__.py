"""The composition root: puts the parts together, listens, starts, stops, supervises workers."""
