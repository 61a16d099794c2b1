"""What a model file holds, whoever wrote it: operators, weights, quantization, inputs and outputs, cost, and what looks wrong."""
