"""What the published grid costs, computed from operation counts: nothing is run, nothing is measured.

    PYTHONPATH=workflow .venv/bin/python benchmarks/grid.py

Counted are multiply-adds of the matrix products, twice each, per question: the vision tower, the clean forward, and for
every knockout its suffix from the first layer of its window on (the operations that no program can avoid), and beside
it the published procedure, a full multimodal forward per knockout. Lengths are the published questions' means: 12
tokens of question and 17 after them. Hours are for 6,000 questions at half of the 790 TFLOP/s that an H200 reaches in
large half-precision products.
"""

from dataclasses import dataclass

from crossflow.flows import window_at

QUESTION, AFTER = 12, 17
TO_LAST, TO_QUESTION = 3, 3  # of the six published flows
QUESTIONS = 6_000
RATE = 0.5 * 790e12


@dataclass(frozen=True)
class Size:
    """The shape of a published model.

    Attributes:
        positions: Mean length of a prompt.
        tiles: Pictures of 336 x 336 that the vision tower sees, on average.
        window: Layers of a window.
        weights: GB of its files, in half precision.
    """

    layers: int
    width: int
    intermediate: int
    key_value_share: float
    positions: int
    tiles: float
    window: int
    weights: float

    def token(self) -> float:
        """Operations of one position in one layer, without attention."""
        return 2 * (self.width**2 * (2 + 2 * self.key_value_share) + 3 * self.width * self.intermediate)

    def attention(self, queries: int, keys: float) -> float:
        """Operations of scores and sums in one layer."""
        return 4 * queries * keys * self.width


MODELS = {
    "llava15-7b": Size(32, 4096, 11008, 1, 642, 1, 7, 14.1),
    "llava15-13b": Size(40, 5120, 13824, 1, 642, 1, 9, 26.7),
    "llava16-vicuna-7b": Size(32, 4096, 11008, 1, 2090, 4.5, 7, 14.1),
    "llama3-llava-next-8b": Size(32, 4096, 14336, 0.25, 2090, 4.5, 7, 16.7),
}
# CLIP ViT-L/14-336 up to its last layer but one: 23 layers of width 1024 over 577 positions.
TILE = 23 * 577 * (2 * 12 * 1024**2 + 4 * 577 * 1024)


def forward(size: Size) -> float:
    """One full multimodal forward; a position attends to half of the prompt on average."""
    decoder = size.positions * size.token() + size.attention(size.positions, size.positions / 2)
    return size.layers * decoder + size.tiles * TILE


def suffixes(size: Size) -> float:
    """All knockouts of a question, as suffixes of the clean forward."""
    total = 0.0
    for layer in range(size.layers):
        remaining = size.layers - window_at(layer, size.window, size.layers).first
        for flows, suffix in ((TO_LAST, 1), (TO_QUESTION, QUESTION + AFTER)):
            total += flows * remaining * (suffix * size.token() + size.attention(suffix, size.positions))
    return total


def main() -> None:
    """Print the table."""
    print("| model | weights | TFLOP a question, published procedure | here | ratio | GPU-hours |")
    print("|---|---|---|---|---|---|")
    hours = 0.0
    for name, size in MODELS.items():
        published = (1 + (TO_LAST + TO_QUESTION) * size.layers) * forward(size)
        # The answers job asks once with the picture and once with it removed: two forwards more.
        engine = 3 * forward(size) + suffixes(size)
        hours += QUESTIONS * engine / RATE / 3600
        print(
            f"| {name} | {size.weights:.1f} GB | {published / 1e12:,.0f} | {engine / 1e12:.0f} | "
            f"{published / engine:.0f} | {QUESTIONS * engine / RATE / 3600:.2f} |"
        )
    print(f"| all | {sum(size.weights for size in MODELS.values()):.1f} GB | | | | {hours:.1f} |")


if __name__ == "__main__":
    main()
