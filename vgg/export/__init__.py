"""Models that leave: bundle with its proof, ONNX, the Hub, a Space."""
