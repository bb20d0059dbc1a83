"""What stands behind the page: loaded models, the device, trainings, uploads."""
