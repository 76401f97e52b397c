"""Configuration: typed schema, loading, checks across fields, DeepSpeed JSON."""
