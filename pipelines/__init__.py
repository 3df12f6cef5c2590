"""The turn as a pipeline of Kubeflow."""
