# What `import crossflow` offers: read by type checkers, and by `__init__.py`, which imports a name when it is used.
from .api import knockout as knockout
from .api import knockout_heads as knockout_heads
from .api import logit_lens as logit_lens
from .api import plot as plot
from .api import show as show
from .asking import Asked as Asked
from .asking import Model as Model
from .asking import ask as ask
from .asking import load as load
from .core.errors import CrossflowError as CrossflowError

__version__: str
