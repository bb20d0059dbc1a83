"""The network: what it is, how it is built, how it is made fast."""
