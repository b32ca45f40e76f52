"""Configuration of every kernel that runs the book's notebooks, whatever the user's own says.

`tools/execute.py` and `tests/conftest.py` copy this file into a fresh IPYTHONDIR.
"""

c = get_config()  # noqa: F821  (IPython provides it)
# ipykernel writes one line about its transport for each kernel; readers cannot act on it.
c.IPKernelApp.log_level = 40
# Twice the pixels, half the size: figures stay crisp on today's screens.
c.InlineBackend.figure_formats = {"retina"}
# Plain text in tracebacks; the site colours them itself.
c.InteractiveShell.colors = "nocolor"
