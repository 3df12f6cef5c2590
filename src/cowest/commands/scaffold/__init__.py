"""The files of a new project as templates, and the guess at a table that fills them."""
