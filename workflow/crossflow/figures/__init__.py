"""From summary tables to figures, the explorer and pages of the report.

May import: core, data, models, engine, experiments, analysis.
"""
