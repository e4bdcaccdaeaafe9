"""Training state on disk, written so that no crash leaves an unreadable file."""
