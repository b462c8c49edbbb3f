"""A process that takes a whole core, as a busy neighbour does: `python -m tests.load.hog`."""

if __name__ == "__main__":
    while True:
        pass
