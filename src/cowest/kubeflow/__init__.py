"""Submits, schedules and watches turns on a Kubeflow Pipelines server.

It is spoken to by its v2beta1 REST interface. Nothing here imports kfp: a pipeline comes as the
file that was compiled.
"""
