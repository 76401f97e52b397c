"""Networks: tensors in, tensors out; no config, no ranks, no device names."""
