"""Calls to an OpenAI-compatible endpoint: settings, pace, responses, batches."""
