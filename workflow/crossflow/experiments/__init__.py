"""Jobs that run a model on a category's questions and write one table each: answers, knockouts, logit lens.

May import: core, data, models, engine.
"""
