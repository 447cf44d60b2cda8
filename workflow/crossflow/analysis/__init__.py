"""From result tables to summary tables with intervals, verdicts on the claims, and comparisons.

May import: core, data.
"""
