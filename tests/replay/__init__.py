"""The replay of access logs, alone and held against a proxy that was really asked."""
