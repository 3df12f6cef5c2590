"""The service: the champion drafts, the strong model refines."""
