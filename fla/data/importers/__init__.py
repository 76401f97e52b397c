"""Importers: official downloads to manifests, one module a corpus."""
