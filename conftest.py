"""What holds for every test, the cells of the notebooks included."""

import contextlib
import os
import sys
from pathlib import Path

import nbval.kernel
import pytest

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))  # tests import the tools by their names

import execute  # noqa: E402

_AT_END = contextlib.ExitStack()


def _execute_as_a_notebook_does(
    self: nbval.kernel.RunningKernel, cell_input: str, allow_stdin: bool | None = None
) -> str:
    """Run a cell with history: without it, as nbval has it, IPython overlooks a closing `;`."""
    return self.kc.execute(cell_input, allow_stdin=allow_stdin, stop_on_error=False)


def pytest_configure(config: pytest.Config) -> None:
    """Give nbval's kernels the environment in which `make refresh` executed the notebooks."""
    kernel = _AT_END.enter_context(execute.kernel_environment())
    del kernel["MPLBACKEND"]  # a kernel draws inline by itself; the tests have no cells to draw in
    for name in set(os.environ) - set(kernel):
        if not name.startswith("PYTEST"):
            del os.environ[name]
    os.environ.update(kernel)
    nbval.kernel.RunningKernel.execute_cell_input = _execute_as_a_notebook_does


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the temporary profile."""
    _AT_END.close()
