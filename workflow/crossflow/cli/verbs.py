"""The verbs of the command line: functions whose parameters are the options and whose docstrings are the help.

A new verb is a function and a line here. Options that several verbs share are fields of a settings dataclass, such as
`crossflow.experiments.job.Job`; every field is an option of the same name.
"""

VERBS = {
    "fetch": "crossflow.fetch.fetching:write_fetched",
    "fetch-images": "crossflow.fetch.fetching:write_images",
    "hub-questions": "crossflow.fetch.hub_gqa:write_hub_questions",
    "unpack-table": "crossflow.fetch.tables:write_table",
    "fetch-model": "crossflow.fetch.hub:write_manifest",
    "mini-world": "crossflow.mini.world:write_world",
    "random-model": "crossflow.mini.random_model:write_random_llava",
    "train-mini-llava": "crossflow.mini.training:write_mini_llava",
    "mini-card": "crossflow.mini.model_card:write_card",
    "questions": "crossflow.data.choice:write_questions",
    "pairs": "crossflow.data.pairs:write_pairs",
    "mini-pairs": "crossflow.mini.pairs:write_pairs",
    "overlap": "crossflow.data.published_overlap:write_overlap",
    "answers": "crossflow.experiments.answers:write_answers",
    "knockout": "crossflow.experiments.knockouts:write_knockouts",
    "heads": "crossflow.experiments.heads:write_heads",
    "patching": "crossflow.experiments.patching:write_patching",
    "image-lens": "crossflow.experiments.image_lens:write_image_lens",
    "summary": "crossflow.analysis.summary:write_summary",
    "metrics": "crossflow.analysis.metrics:write_metrics",
    "claims": "crossflow.analysis.claims_text:write_claims",
    "compare": "crossflow.analysis.expected:write_comparison",
    "figure": "crossflow.figures.figure:write_figure",
    "examples": "crossflow.figures.examples:write_examples",
    "explorer": "crossflow.figures.explorer:write_explorer",
    "page": "crossflow.figures.table_page:write_page",
    "hashes": "crossflow.core.files:write_hashes",
    "provenance": "crossflow.analysis.provenance:write_provenance",
    "trace": "crossflow.cli.trace:run",
    "check": "crossflow.cli.check:run",
    "bench": "crossflow.cli.bench:run",
    "doctor": "crossflow.cli.doctor:run",
}
"""Verb -> module and function."""
