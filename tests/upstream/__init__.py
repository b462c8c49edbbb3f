"""The way to the upstream and to IAM."""
