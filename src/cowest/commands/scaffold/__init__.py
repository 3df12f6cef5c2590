"""A project from a sample file: what its columns seem to be (guess.py), and the files of a project as templates."""
