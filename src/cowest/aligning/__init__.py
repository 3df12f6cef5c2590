"""Trains the policy on the feedback on its drafts: on pairs of drafts, or on single drafts."""
