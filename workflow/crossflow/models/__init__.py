"""From a model's folder to a loaded model, its inputs for a question, and its memory.

May import: core, data.
"""
