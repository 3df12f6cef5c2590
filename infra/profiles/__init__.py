"""Profiles of the pipeline: what each step gets on a cluster (`cowest.profiles`)."""
