"""dode: diffusion and flow models in far fewer steps, without training them.

What it exports is in `__init__.pyi`, and is imported where it is used first: PyTorch takes seconds, and a line of help needs none of it.
"""

import lazy_loader

__version__ = "0.1.0.dev0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
