"""The mini world, which is drawn in GQA's layout, and mini-llava, the small LLaVA that is trained on it.

May import: core, data, models, engine, experiments.
"""
