"""From manifests to packed batches of decoded frames."""
