"""From position sets to knockouts: edges, the clean run, the reference and the exact fast engine.

May import: core, data, models.
"""
