"""The small module behind the book on variational auto-encoders.

Readers meet ``from vaebook.objectives import elbo``: the path says where to look, so this file
re-exports nothing and importing it costs nothing.
"""

__version__ = "0.1.0"
