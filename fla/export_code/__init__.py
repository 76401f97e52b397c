"""Code that is copied into every export: plain PyTorch and transformers, nothing else of fla."""
