"""Quality, speed and size of encoding, indexes and the retrieval service."""
