"""What is done with trained networks: exports, predictions, pictures, ONNX."""
