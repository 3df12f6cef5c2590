"""CoWest: a small policy drafts, a strong model refines, and what helped becomes preference.

Read `collaboration.py` first: it is the algorithm. `docs/architecture.md` says where the rest is.
"""

__version__ = "0.1.0"
