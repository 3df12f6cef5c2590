"""DPO over trees: all drafts of a query share its prompt, and no token is computed twice."""
