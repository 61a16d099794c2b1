"""The hub: one fp32 ONNX model, captured, brought to canonical form and inspected."""
