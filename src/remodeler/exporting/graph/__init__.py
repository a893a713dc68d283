"""ONNX and ExecuTorch."""
