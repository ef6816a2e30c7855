"""How the source of a chapter begins, for the tests that write one."""

HEADER = """\
---
jupytext:
  formats: ipynb,md:myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

"""
