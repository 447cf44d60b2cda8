"""The mini world on disk, in GQA's official layout.

``questions/val_balanced_questions.json``, ``sceneGraphs/val_sceneGraphs.json`` and ``images.zip`` with
``images/<id>.jpg``, as `crossflow.data.gqa` reads them: for each scene, one question of each of the six categories that
the scene allows, and some of other kinds. `crossflow.mini.scenes` draws the scenes, `crossflow.mini.drawing` paints
them, and `crossflow.mini.questions` and `crossflow.mini.other_questions` ask about them.
"""

import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.progress import progress_of
from crossflow.mini.drawing import draw_image
from crossflow.mini.other_questions import OTHERS
from crossflow.mini.programs import MiniQuestion
from crossflow.mini.questions import CATEGORIES
from crossflow.mini.scenes import Scene, draw_scene, scene_graph

_OTHERS_PER_SCENE = 3
# A fixed time for zip members, so that the same images give the same file.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def questions_about(scene: Scene) -> list[MiniQuestion]:
    """The questions of a scene, the same at every call, with kinds in random order."""
    rng = random.Random(f"crossflow questions {scene.image_id}")
    askers = [*(category.write for category in CATEGORIES.values()), *rng.sample(OTHERS, _OTHERS_PER_SCENE)]
    rng.shuffle(askers)
    return [asked for ask in askers if (asked := ask(scene, rng)) is not None]


def add_image(archive: zipfile.ZipFile, image_id: str, image: Image.Image) -> None:
    """Add an image to a zip of images, the same bytes for the same image."""
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=95, subsampling=0)
    archive.writestr(zipfile.ZipInfo(f"images/{image_id}.jpg", _NO_TIME), encoded.getvalue())


def _write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def write_world(root: Path, scenes: int, seed: int) -> None:
    """Draw the mini world: scenes 0, 1, ... of a seed, with scene graphs and questions in GQA's layout.

    A world of more scenes starts with the scenes and questions of a smaller one.

    Args:
        root: Folder for questions/, sceneGraphs/ and images.zip.
        scenes: Number of scenes, one image each.
        seed: Seed of the world: the same number draws the same scenes.

    Raises:
        CrossflowError: no scene is requested, the seed is negative, or a file cannot be written.
    """
    if scenes < 1 or seed < 0:
        raise CrossflowError(
            f"{scenes} scenes of seed {seed} cannot be drawn: give at least 1 scene and a seed of at least 0."
        )
    questions: dict[str, Any] = {}
    graphs: dict[str, Any] = {}
    with (
        replacing(root / "images.zip") as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        progress_of("scenes", scenes, unit="scene") as progress,
    ):
        for index in range(scenes):
            scene = draw_scene(seed, index)
            image, toy_boxes, clutter_boxes = draw_image(scene)
            add_image(archive, scene.image_id, image)
            graphs[scene.image_id] = scene_graph(scene, toy_boxes, clutter_boxes)
            for number, asked in enumerate(questions_about(scene)):
                question_id = f"{scene.image_id}{number:02d}"
                questions[question_id] = asked.record(question_id, scene)
            progress.update()
    _write_json(root / "sceneGraphs" / "val_sceneGraphs.json", graphs)
    _write_json(root / "questions" / "val_balanced_questions.json", questions)
