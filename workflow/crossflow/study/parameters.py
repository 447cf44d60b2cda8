"""The study that params.yaml names, validated and with defaults filled in, before anything is computed.

The schema (``workflow/schemas/params.schema.yaml``) says what is allowed; this module turns its errors into one
sentence and checks what a schema cannot express. Imports nothing heavy: the workflow reads it at every start.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import CONTROL_FLOWS, PATCHED_SETS, SET_NAMES, SINK_SETS, parse_flow, with_controls
from crossflow.data.categories import CATEGORIES


@dataclass(frozen=True)
class Heads:
    """What a study knocks out in some attention heads only.

    Attributes:
        flows: The flows.
        each: Whether each head is knocked out alone.
        subsets: Number of random subsets of the heads per question.
        share: Probability that a head is in a subset.
        layers: Layers whose heads are knocked out; none stands for all.
    """

    flows: list[str]
    each: bool = True
    subsets: int = 0
    share: float = 0.5
    layers: tuple[int, ...] = ()
    suffixes: ClassVar = (".parquet",)
    pairs: ClassVar = False

    def options(self, study: "Study") -> list[str]:
        """Options of the verb `heads`: only what changes its numbers."""
        found = ["--flows", *self.flows, "--seed", str(study.seed), "--engine", study.engine]
        found += [] if self.each else ["--only-subsets"]
        if self.subsets:
            found += ["--subsets", str(self.subsets), "--share", str(self.share)]
        return [*found, "--layers", *map(str, self.layers)] if self.layers else found


@dataclass(frozen=True)
class Patching:
    """Where a study patches the residual stream of pairs.

    Attributes:
        sets: Position sets.
        stride: Distance between the patched layers.
    """

    sets: tuple[str, ...] = PATCHED_SETS
    stride: int = 1
    suffixes: ClassVar = (".parquet", ".pairs.csv")
    pairs: ClassVar = True

    def options(self, study: "Study") -> list[str]:
        """Options of the verb `patching`."""
        return ["--sets", *self.sets, "--stride", str(self.stride), "--engine", study.engine]


@dataclass(frozen=True)
class ImageLens:
    """How a study reads the logit lens over the image and the question.

    Attributes:
        words: Words per visual token in a map.
        maps: Questions per category with a map.
    """

    words: int = 5
    maps: int = 4
    suffixes: ClassVar = (".parquet", ".words.parquet", ".maps.parquet")
    pairs: ClassVar = False

    def options(self, study: "Study") -> list[str]:
        """Options of the verb `image-lens`."""
        return ["--words", str(self.words), "--maps", str(self.maps), "--seed", str(study.seed)]


@runtime_checkable
class Experiment(Protocol):
    """An experiment that a study asks for by a key of its own.

    Attributes:
        suffixes: Of its tables: results/{study}/{key}/{model}/{category}{suffix}.
        pairs: Whether it reads the pairs of the questions.
    """

    def options(self, study: "Study") -> list[str]:
        """Options of its verb, besides those that all experiments share."""

    @property
    def suffixes(self) -> tuple[str, ...]: ...
    @property
    def pairs(self) -> bool: ...


EXPERIMENTS = ("heads", "patching", "image_lens")
"""The keys of a study that ask for an experiment; its module, its verb and its folder of results have the same name."""


@dataclass(frozen=True)
class Study:
    """The study that params.yaml names.

    Attributes:
        windows: Model -> its windows: widths, ``bottom`` or ``top``.
        number: Questions per category, or ``all``.
        controls: Control flows, in addition to the study's own flows.
        stride: Controls are computed at every ``stride``-th centre layer.
        baselines: Further answers without the image.
        variants: Models that have the weights of an earlier one of the study -> that one.
        whole_answer: Whether all tokens of an answer are scored.
        heads: What is knocked out in some attention heads only; None if nothing is.
        patching: Where the residual stream of pairs is patched; None if nowhere.
        image_lens: How the lens over image and question is read; None if it is not.
        drawn: Whether the data set is the mini world.
        jobs_per_model: Jobs among which the categories of a model are split.
    """

    name: str
    dataset: str
    models: list[str]
    categories: list[str]
    windows: dict[str, list[str]]
    flows: list[str]
    number: str
    answers: str
    engine: str
    lens: bool
    seed: int
    controls: list[str]
    stride: int
    baselines: list[str]
    variants: dict[str, str]
    whole_answer: bool
    heads: Heads | None
    patching: Patching | None
    image_lens: ImageLens | None
    drawn: bool
    jobs_per_model: int

    @property
    def experiments(self) -> dict[str, Experiment]:
        """The experiments of `EXPERIMENTS` that the study asks for."""
        asked = {name: getattr(self, name) for name in EXPERIMENTS}
        return {name: experiment for name, experiment in asked.items() if experiment is not None}

    @property
    def shares(self) -> dict[str, list[str]]:
        """The jobs of a model: the end of a job's name, which is empty for the first, -> its categories."""
        count = min(self.jobs_per_model, len(self.categories))
        return {f"_{first + 1}" if first else "": self.categories[first::count] for first in range(count)}


def _sentence(error: ValidationError) -> str:
    """A validation error, in words that do not assume knowledge of JSON schema."""
    schema: Any = error.schema
    given: Any = error.instance
    match error.validator:
        case "additionalProperties":
            unknown = [repr(key) for key in given if key not in schema["properties"]]
            return f"unknown key {', '.join(unknown)}; choose from {', '.join(schema['properties'])}"
        case "pattern":
            return f"{given!r} is invalid: expected {schema['description']}"
        case "anyOf":
            return f"{given!r} is not {schema['description']}"
        case "oneOf":
            return f"give {schema['oneOf'][0]['description']}"
        case _:
            return error.message


def validate(config: Mapping[Any, Any], schema: Path) -> None:
    """Validate a configuration against the schema.

    Raises:
        CrossflowError: one sentence with the path of the offending key.
    """
    error = next(Draft202012Validator(yaml.safe_load(schema.read_text())).iter_errors(config), None)
    if error is not None:
        where = ".".join(map(str, error.absolute_path)) or "its top level"
        raise CrossflowError(f"params.yaml, {where}: {_sentence(error)}.")


def _entry(config: Mapping[str, Any], kind: str, slug: str, asked_by: str) -> Mapping[str, Any]:
    if slug not in config[kind]:
        known = ", ".join(config[kind])
        raise CrossflowError(f"params.yaml, {asked_by}: {kind} has no entry {slug!r}; choose from {known}.")
    entry: Mapping[str, Any] = config[kind][slug]
    return entry


def _flow(name: str, asked_by: str) -> None:
    try:
        parse_flow(name)
    except CrossflowError as error:
        raise CrossflowError(f"params.yaml, {asked_by}: {error}") from None


def _read_patching(given: Mapping[str, Any] | None, at: str) -> Patching:
    given = given or {}
    patching = Patching(tuple(given.get("sets", PATCHED_SETS)), given.get("stride", 1))
    # Which positions are sinks differs between the images of a pair.
    known = [name for name in SET_NAMES if name not in SINK_SETS]
    if unknown := [name for name in patching.sets if name not in known]:
        raise CrossflowError(
            f"params.yaml, {at}.sets: {unknown[0]!r} cannot be patched; choose from {', '.join(known)}."
        )
    return patching


def _read_heads(given: Mapping[str, Any], at: str) -> Heads:
    for flow in given["flows"]:
        _flow(flow, f"{at}.flows")
        if any(part.module for part in parse_flow(flow).parts):
            raise CrossflowError(
                f"params.yaml, {at}.flows: {flow} replaces the output of a module, which is not divided into heads."
            )
    heads = Heads(**{**given, "flows": list(given["flows"]), "layers": tuple(given.get("layers", ()))})
    if not heads.each and not heads.subsets:
        raise CrossflowError(f"params.yaml, {at}: with each: false, subsets must be at least 1.")
    return heads


def read_study(config: Mapping[str, Any]) -> Study:
    """The study that ``config`` names, with defaults filled in.

    Raises:
        CrossflowError: a slug has no entry, or a flow is invalid.
    """
    name = config["study"]
    study = _entry(config, "studies", name, "study")
    at = f"studies.{name}"
    dataset = _entry(config, "datasets", study["dataset"], f"{at}.dataset")
    if dataset["kind"] != "table" and (unknown := [name for name in study["categories"] if name not in CATEGORIES]):
        raise CrossflowError(
            f"params.yaml, {at}.categories: unknown category {unknown[0]!r}; choose from {', '.join(CATEGORIES)} (only "
            "a data set of kind table has its own)."
        )
    windows, variants = {}, {}
    first: dict[tuple[Any, Any], str] = {}
    for slug in study["models"]:
        model = _entry(config, "models", slug, f"{at}.models")
        weights = model["repo"] if "repo" in model else Path(model["path"]), model.get("revision")
        if (base := first.setdefault(weights, slug)) != slug:
            variants[slug] = base
        own = study.get("windows") or ["own"]
        windows[slug] = list(dict.fromkeys(str(model["window"] if window == "own" else window) for window in own))
    for flow in study["flows"]:
        _flow(flow, f"{at}.flows")
    controls = study.get("controls")
    further = [] if controls is None else controls.get("flows", CONTROL_FLOWS)
    for flow in further:
        _flow(flow, f"{at}.controls.flows")
    heads = _read_heads(study["heads"], f"{at}.heads") if "heads" in study else None
    patching = _read_patching(study["patching"], f"{at}.patching") if "patching" in study else None
    image_lens = ImageLens(**study["image_lens"]) if "image_lens" in study else None
    draws = 0 if controls is None else controls.get("draws", 3)
    number = study.get("questions_per_category")
    return Study(
        name,
        study["dataset"],
        list(study["models"]),
        list(study["categories"]),
        windows,
        list(study["flows"]),
        "all" if number is None else str(number),
        study.get("answers", "correct"),
        study.get("engine", "knockout"),
        study.get("lens", True),
        study.get("seed", 0),
        [] if controls is None else with_controls(study["flows"], draws, further),
        1 if controls is None else controls.get("stride", 1),
        list(study.get("baselines", [])),
        variants,
        study.get("whole_answer", False),
        heads,
        patching,
        image_lens,
        dataset["kind"] == "shapes",
        study.get("jobs_per_model", 1),
    )


def recorded(config: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """The parts of params.yaml that a study uses."""
    return {
        "study": study.name,
        "studies": {study.name: config["studies"][study.name]},
        "datasets": {study.dataset: config["datasets"][study.dataset]},
        "models": {slug: config["models"][slug] for slug in study.models},
    }
