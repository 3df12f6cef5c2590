"""What the service does: the champion drafts, the strong model refines."""
