"""A few hostile inputs of every kind; `benchmarks/fuzz.py` tries thousands."""

import pytest

from fuzzing import ACCEPTED, REFUSED, Kinds

EXAMPLES = {"model": 15, "params": 60, "params-text": 60, "flows": 300, "pictures": 100}
KINDS = (
    "params", "params-text", "questions", "scenes", "table", "published", "pictures", "prompts", "flows", "model",
    "journal",
)  # fmt: skip


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Kinds:
    return Kinds(tmp_path_factory.mktemp("fuzz"))


def test_every_kind_is_tried(kinds: Kinds) -> None:
    assert set(KINDS) == kinds.kinds.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_is_accepted_or_refused_in_one_sentence(kinds: Kinds, kind: str) -> None:
    outcomes = kinds.run(kind, EXAMPLES.get(kind, 40), seed=0)
    assert outcomes[ACCEPTED], "nothing that is accepted is looked at"
    assert outcomes[REFUSED], "nothing that is refused is looked at"
