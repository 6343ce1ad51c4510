"""A plan as an ONNX model: the model with its experts in slots, and annotations for several devices."""
