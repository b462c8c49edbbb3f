"""What takes longer than a test may: `make soak` runs the files named `soak_…`, which plain pytest passes over."""
