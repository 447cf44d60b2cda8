"""Downloads, checked and resumable: GQA, the published question sets, models and data sets from the
Hugging Face hub.

May import: core, data, models.
"""
