"""The decision log, the files of versions, and the tracked runs: all in MLflow."""
