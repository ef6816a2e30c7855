"""The small module behind the book on variational auto-encoders.

Readers import from the modules, as in ``from vaebook.objectives import elbo``, so that the path says where
to look. This file re-exports nothing, and importing it is free.
"""

__version__ = "0.1.0"
