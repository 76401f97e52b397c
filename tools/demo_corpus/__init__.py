"""The demo corpus: an invented sign language, signed by a drawn figure, and its English."""
