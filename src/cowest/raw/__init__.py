"""Data that somebody else wrote: fetched, versioned, read row by row."""
