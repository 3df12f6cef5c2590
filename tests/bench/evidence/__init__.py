"""What alignment by collaborative feedback is worth, with its controls: `make evidence`
(docs/evidence-plan.md).
"""
