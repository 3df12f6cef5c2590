"""The service, which answers questions over HTTP."""
