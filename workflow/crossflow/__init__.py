"""crossflow: how information flows from image to question to answer inside a multimodal LLM.

Vocabulary of code, columns, parameters and plots:

position
    One place in a prompt: a text token or a visual token, counted from 0.
position set
    A named set of positions, such as ``image``, ``question`` or ``last``.
flow
    ``source->target``: two position sets; information moves from source to target by attention.
knockout
    The target's positions may not attend to the source's, in some layers.
window
    The layers in which a knockout acts, given by a width around a *centre layer*.
row
    One (flow, centre layer) of one question: one number of a curve.
clean
    A run without a knockout.
change
    100 * (p_knockout - p_clean) / p_clean, in percent, for the first token of the clean answer.

``import crossflow as cf`` offers the names in ``__init__.pyi``, from `crossflow.asking` and
`crossflow.api`. Each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.2.0"
