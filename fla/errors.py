"""Errors that a user can fix. A launcher or tool prints the sentence and exits with the code."""


class FlaError(Exception):
    """One sentence: where, what value, what to do."""

    exit_code = 1


class ConfigError(FlaError):
    """A key, a value or a combination of keys that cannot be run."""

    exit_code = 2


class DataError(FlaError):
    """A manifest, annotation or video that is not what it should be."""


class CheckpointError(FlaError):
    """A checkpoint or an export that cannot be used."""


class RunStopped(FlaError):
    """A run that a signal has stopped, and that the same command continues."""

    exit_code = 75
    """EX_TEMPFAIL of sysexits.h: try again."""


def first_line(error: Exception) -> str:
    """What a library says of an error, short enough to be quoted in a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
