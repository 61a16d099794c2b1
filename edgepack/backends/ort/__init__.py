"""The Raspberry Pi artifact: the hub itself, for ONNX Runtime."""
