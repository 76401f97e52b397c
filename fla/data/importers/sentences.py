"""Sentences that are not what somebody wrote."""


def is_mojibake(sentence: str) -> bool:
    """Whether a sentence is UTF-8 that somebody read as Latin-1 and saved as UTF-8 again."""
    if sentence.isascii():
        return False
    try:
        sentence.encode("latin-1").decode()
    except UnicodeError:
        return False
    return True
