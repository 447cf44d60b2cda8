"""The questions of a split that belong to a category: one pass over the questions, one over the scene graphs."""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from crossflow.core.records import ChosenQuestion, SceneGraph
from crossflow.data.categories import OTHER_KIND, Classified, Rejection, attach_objects, classify
from crossflow.data.gqa import read_questions, read_scenes, scenes_file
from crossflow.data.splits import has_scene_graphs


def filter_questions(
    root: Path, split: str, categories: Collection[str]
) -> Iterator[tuple[str, ChosenQuestion | Rejection]]:
    """Yield every question's id with its chosen question in one of ``categories``, or the reason for its rejection.

    Only questions whose program fits, and the scene graphs of their images, stay in memory. In a split without scene
    graphs, the chosen questions have no objects.

    Raises:
        CrossflowError: either file is absent or broken.
    """
    # Checked first: otherwise a missing file is reported only after minutes of reading.
    if has_scene_graphs(split):
        scenes_file(root, split)
    classified: list[Classified] = []
    for question in read_questions(root, split, progress=True):
        result = classify(question)
        if result.category not in categories:
            yield question.question_id, Rejection("", OTHER_KIND)
        elif isinstance(result, Rejection):
            yield question.question_id, result
        else:
            classified.append(result)
    if not has_scene_graphs(split):
        for entry in classified:
            without = SceneGraph(entry.question.image_id, {})
            yield entry.question.question_id, attach_objects(entry._replace(objects=()), without)
        return
    scenes = read_scenes(root, split, {entry.question.image_id for entry in classified}, progress=True)
    for entry in classified:
        yield entry.question.question_id, attach_objects(entry, scenes.get(entry.question.image_id))


def find_questions(root: Path, split: str, category: str) -> tuple[list[ChosenQuestion], Counter[str]]:
    """All questions of a category, and how often each reason rejects the others.

    Raises:
        CrossflowError: either file is absent or broken.
    """
    found: list[ChosenQuestion] = []
    reasons: Counter[str] = Counter()
    for _, result in filter_questions(root, split, {category}):
        if isinstance(result, Rejection):
            reasons[result.reason] += 1
        else:
            found.append(result)
    return found, reasons
