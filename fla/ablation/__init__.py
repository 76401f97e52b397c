"""The paper's ablations: tables as values, expanded into runs, run, and written beside its numbers.

Nothing here imports torch but what executing and MLflow need, so that `--list` is answered at once.
"""
