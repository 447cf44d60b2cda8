"""Whether a model, a machine and a study's inputs are fit for use, and how fast knockouts run.

May import: everything but cli.
"""
