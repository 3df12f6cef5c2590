"""The decision log, the versions' files, and the tracked runs: all in MLflow."""
