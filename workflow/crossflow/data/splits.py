"""Splits of GQA, such as val_balanced, and the part of GQA, such as val, that each belongs to."""

WITHOUT_SCENE_GRAPHS = ("testdev",)
"""Parts whose questions have programs and answers, but no scene graphs and so no boxes."""


def part_of(split: str) -> str:
    """The part of a split: its name up to the first underscore."""
    return split.partition("_")[0]


def has_scene_graphs(split: str) -> bool:
    """Whether GQA has scene graphs of a split's images."""
    return part_of(split) not in WITHOUT_SCENE_GRAPHS
