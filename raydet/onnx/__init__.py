"""Models as ONNX files: a float graph, one with symmetric ranges for TensorRT, one in INT8 for ONNX Runtime."""
