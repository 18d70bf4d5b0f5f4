"""`dp ui`: a page in the browser. It has no logic of its own: every page calls what the library offers.

`page.py` and `actions.py` import Gradio; the others are ordinary functions, tested without it.
"""
