"""Measures what alignment by collaborative feedback is worth, with controls: `make evidence`
(docs/evidence-plan.md).
"""
