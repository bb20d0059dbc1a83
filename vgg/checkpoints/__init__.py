"""Models on disk: found, read, written, listed."""
