"""Training: from a folder of pictures to a checkpoint."""
