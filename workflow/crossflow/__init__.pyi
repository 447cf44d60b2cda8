# What `import crossflow` offers: read by type checkers, and by `__init__.py`, which imports a name when it is used.
from .api import Asked as Asked
from .api import Model as Model
from .api import ask as ask
from .api import knockout as knockout
from .api import load as load
from .api import logit_lens as logit_lens
from .api import plot as plot
from .api import show as show
from .core.errors import CrossflowError as CrossflowError

__version__: str
