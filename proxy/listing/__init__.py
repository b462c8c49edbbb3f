"""The listing engine: answers list requests from stored spans and fetches what is missing."""
