"""Whose keys and values the targets of a substitution read.

*Swapped*: those of the same prompt with the image of a random other question of the category, the image of the baseline
of that name wherever it is laid out as the question's own. *Mean*: the mean, at each visual token, over the images of
the category's questions that are laid out alike.

A knockout takes its targets out of the distribution that the model was trained on; a substitution leaves as many keys
as before, which say nothing about this image, or something else. Source: J. Kim et al., Interpreting attention heads
for image-to-text information flow in large vision-language models (arXiv 2509.17588), who replace an image's keys and
values by a baseline's; K. Wang et al., Interpretability in the wild (ICLR 2023): ablation to the mean; F. Zhang and N.
Nanda, Towards best practices of activation patching (ICLR 2024): activations of another input stay in distribution.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from PIL import Image

from crossflow.core.errors import BrokenQuestion
from crossflow.core.flows import MEAN, SWAPPED, parse_flow
from crossflow.core.progress import progress_of
from crossflow.core.records import ChosenQuestion
from crossflow.core.seeds import derived_seed
from crossflow.data.images import Images
from crossflow.engine.donors import Donor, MeanDonor
from crossflow.engine.forward import run_clean_together
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.models.preparing import PrepareRequest, prepared_ahead

log = logging.getLogger(__name__)

FEWEST_IMAGES = 10
"""Fewest images of which a mean is taken."""

Layout = tuple[bytes, ...]


def swapped_images(
    questions: Sequence[ChosenQuestion], seed: int, layouts: Mapping[str, Layout] | None = None
) -> dict[str, str]:
    """Question -> the image of a random other question; left out where there is no other image.

    Args:
        questions: The questions.
        seed: The study's seed.
        layouts: Image -> its layout; with it, only images of the question's own layout are drawn.
    """
    images = np.array([question.image_id for question in questions])
    swapped = {}
    for question in questions:
        others = images[images != question.image_id]
        if layouts is not None:
            own = layouts.get(question.image_id)
            others = np.array([image for image in others if image in layouts and layouts[image] == own])
        if len(others):
            generator = np.random.default_rng(derived_seed(seed, question.question_id, SWAPPED))
            swapped[question.question_id] = str(generator.choice(others))
    return swapped


def layouts_of(model: MultimodalModel, images: Images, questions: Sequence[ChosenQuestion]) -> dict[str, Layout]:
    """Image -> how its visual tokens are laid out, which follows from its size; unusable questions are left out."""
    by_size: dict[tuple[int, int], Layout] = {}
    found: dict[str, Layout] = {}
    for each in questions:
        if each.image_id in found:
            continue
        try:
            size = images.open(each.image_id, each.image_size).size
            if size not in by_size:
                by_size[size] = model.prepare(replace(each, objects=()), Image.new("RGB", size)).layout
        except BrokenQuestion:
            continue
        found[each.image_id] = by_size[size]
    return found


def substitutes_of(flows: Collection[str]) -> set[str]:
    """The substitutes that flows need."""
    return {found for found in (parse_flow(flow).substitute for flow in flows) if found is not None}


class Donors:
    """The donors of one category.

    Args:
        model: The model.
        substitutes: From `substitutes_of`.
        questions: All chosen questions of the category: their images are swapped.
        asked: Those that are knocked out: means are taken over their images.
        images: The data set's images.
        seed: The study's seed.
    """

    def __init__(
        self,
        model: MultimodalModel,
        substitutes: Collection[str],
        questions: Sequence[ChosenQuestion],
        asked: Sequence[ChosenQuestion],
        images: Callable[[], Images],
        seed: int,
    ) -> None:
        self._model = model
        self._images = images
        self._layouts: dict[str, Layout] = {}
        if substitutes:
            with images() as opened:
                self._layouts = layouts_of(model, opened, questions)
        self._swapped = swapped_images(questions, seed, self._layouts) if SWAPPED in substitutes else {}
        self.averaged = self._to_average(asked) if MEAN in substitutes else []
        """One question of each image of which means are taken."""
        averaged = {question.image_id for question in self.averaged}
        for substitute, lacking, reason in (
            (SWAPPED, [each for each in asked if each.question_id not in self._swapped], "no other image"),
            (MEAN, [each for each in asked if each.image_id not in averaged], f"fewer than {FEWEST_IMAGES} images"),
        ):
            if substitute in substitutes and lacking:
                log.warning(
                    "=%s is missing for %d of %d questions, such as %s: %s of the category with the layout of theirs",
                    substitute, len(lacking), len(asked), lacking[0].question_id, reason,
                )  # fmt: skip

    def _to_average(self, asked: Sequence[ChosenQuestion]) -> list[ChosenQuestion]:
        of_images = {question.image_id: question for question in reversed(asked) if question.image_id in self._layouts}
        count = Counter(self._layouts[image] for image in of_images)
        return [each for image, each in of_images.items() if count[self._layouts[image]] >= FEWEST_IMAGES]

    def requests(self, question: ChosenQuestion) -> list[PrepareRequest]:
        """What to prepare beside a question: its text with the other image."""
        if question.question_id not in self._swapped:
            return []
        # The boxes are not about the other image, whatever its size.
        return [PrepareRequest(replace(question, image_size=None), self._swapped[question.question_id])]

    def means(self, together: int, workers: int) -> dict[Layout, Donor]:
        """Layout -> the mean of its images, in one pass over them.

        Args:
            together: Images that run together.
            workers: Processes that prepare them.

        Raises:
            CrossflowError: the model cannot be knocked out.
        """
        if not self.averaged:
            return {}
        means: dict[Layout, MeanDonor] = {}
        requests = [PrepareRequest(question, question.image_id) for question in self.averaged]
        with (
            progress_of("means over images", len(requests), unit="image") as progress,
            prepared_ahead(self._model, self._images, requests, workers) as prepared,
        ):
            for _ in range(0, len(requests), together):
                batch = [each for each in islice(prepared, together) if isinstance(each, Prepared)]
                cleans = run_clean_together(self._model, batch, [each.length - 1 for each in batch])
                for each, clean in zip(batch, cleans, strict=True):
                    image = each.positions["image"]
                    mean = means.setdefault(
                        self._layouts[each.question.image_id], MeanDonor(int(image[0]), int(image[-1]) + 1)
                    )
                    mean.add(clean.as_donor)
                progress.update(len(batch))
        return {layout: mean.mean() for layout, mean in means.items()}

    def of(
        self, prepared: Prepared, others: Sequence[Prepared | BrokenQuestion], means: Mapping[Layout, Donor]
    ) -> dict[str, Prepared | Donor]:
        """Substitute -> the donor of a question; without an entry, there is none.

        Args:
            prepared: The question.
            others: What was prepared of its `requests`.
            means: From `means`.
        """
        found: dict[str, Prepared | Donor] = {}
        for other in others:
            if isinstance(other, Prepared) and other.layout == prepared.layout:
                found[SWAPPED] = other
        mean = means.get(self._layouts.get(prepared.question.image_id, ()))
        return found if mean is None else found | {MEAN: mean}
