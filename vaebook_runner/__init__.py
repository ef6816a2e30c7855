"""The command ``vaebook``: everything that runs notebooks and makes the book from them, and no mathematics."""
