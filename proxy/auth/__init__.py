"""Who is asking, and who may share an answer."""
