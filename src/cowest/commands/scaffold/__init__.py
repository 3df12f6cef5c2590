"""The files of a new project: templates with `@places@`, and the guess at a table that fills them."""
