"""Execute chapters, build the book, store the outputs that the tests compare.

``chapters`` reads what a chapter is and declares, ``execute`` runs one notebook, ``book`` runs
those that changed and renders the pages, ``stored`` writes the notebooks kept beside the sources.
Nothing here imports torch, and heavy imports happen inside functions: ``vaebook --help`` answers
at once, even where only the wheel is installed.
"""
