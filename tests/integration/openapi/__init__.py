"""The image API as an OpenAPI description, and what follows from it."""
