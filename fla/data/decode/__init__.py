"""Software decoding: recordings, frames that lie as images, and how both become RGB."""
