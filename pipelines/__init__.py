"""The turn as a Kubeflow pipeline."""
