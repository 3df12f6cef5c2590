"""The call store: answers kept, calls claimed, money counted. Knows nothing of models."""
