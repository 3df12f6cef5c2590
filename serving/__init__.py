"""The service: questions answered over HTTP."""
