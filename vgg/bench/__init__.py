"""The benchmark: this program against others, on this machine."""
