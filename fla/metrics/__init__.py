"""Scores of translations: by named protocols, with intervals and tests of significance."""
