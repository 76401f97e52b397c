"""Sentences to token ids and back."""
