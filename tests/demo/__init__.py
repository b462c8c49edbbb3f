"""The witness itself under test."""
