"""What surrounds the translation of one's own videos: which parts of them, warnings, and files."""
