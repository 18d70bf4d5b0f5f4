"""`dp ui`: a page in the browser. It has no logic of its own: every page calls what the library offers.

`page.py` is the only module that imports Gradio; the others are ordinary functions, tested without a browser.
"""
