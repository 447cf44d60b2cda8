"""From data sets to chosen questions and decoded images.

May import: core.
"""
