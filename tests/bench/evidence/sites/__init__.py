"""The second evidence: what to say depends on the question (docs/evidence-plan-2.md)."""
