"""Downloads, checked and resumable: GQA, the published question sets, models from the Hugging Face hub.

May import: core, data, models.
"""
