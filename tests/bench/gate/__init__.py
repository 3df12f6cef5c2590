"""Measures how often a gate's interval misses the truth, and what promotes by chance: `make
bench-gate`.
"""
