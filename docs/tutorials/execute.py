"""Run tutorials from beginning to end, each in an empty folder, and keep what they print.

``python docs/tutorials/execute.py`` runs all and writes their outputs, with names after it some.
"""

from __future__ import annotations

import copy
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
#: How busy the machine was is nothing that a reader wants to know.
_SLOW = r"importing \S+, which takes a while the first time\n"
#: Commands of a notebook fail in silence, and draw bars as for a terminal; here neither.
_STRICT = """
import os as _os, subprocess as _subprocess, warnings as _warnings
_shell = get_ipython()
def _checked(command):
    command = _shell.var_expand(command, depth=1)
    _done = _subprocess.run(
        ["bash", "-c", command], stdout=_subprocess.PIPE, stderr=_subprocess.STDOUT, text=True
    )
    print(_done.stdout, end="")
    if _done.returncode:
        raise SystemError(f"exit code {_done.returncode} of: {command}")
_shell.system = _checked
_warnings.filterwarnings("ignore", "IProgress not found")
# Of libraries, for their developers.
_warnings.filterwarnings("ignore", category=FutureWarning)
_warnings.filterwarnings("ignore", "Cannot join columns")
_os.environ.update(COLUMNS="100", NO_COLOR="1", TQDM_DISABLE="1")
"""


def execute(path: Path, *, timeout: int = 600) -> nbformat.NotebookNode:
    """Return a notebook as it is after all its cells were run.

    Parameters
    ----------
    path
        The notebook; it is not changed.
    timeout
        Seconds that a cell may take.

    Raises
    ------
    CellExecutionError
        A cell raised, or a command of it had an exit code.
    """
    notebook = nbformat.read(path, as_version=4)
    run = copy.deepcopy(notebook)
    run.cells.insert(0, nbformat.v4.new_code_cell(_STRICT))
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        NotebookClient(run, timeout=timeout, kernel_name="python3", resources=where).execute()
        for cell in run.cells[1:]:
            for output in cell.get("outputs", ()):
                if "text" in output:
                    text = output.text.replace(str(Path(folder).resolve()), "~")
                    output.text = re.sub(_SLOW, "", text)
            if "outputs" in cell:
                cell.outputs = [o for o in cell.outputs if o.get("text", "...").strip()]
    run.cells.pop(0)
    for cell in run.cells:
        cell.metadata.pop("execution", None)
    for i, cell in enumerate((c for c in run.cells if c.cell_type == "code"), 1):
        cell.execution_count = i
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = i
    return run


def main(names: list[str]) -> None:
    """Run the notebooks of these names, or all."""
    found = {p.stem: p for p in sorted(HERE.glob("*.ipynb"))}
    for name in names or found:
        sys.stderr.write(f"{name}\n")
        nbformat.write(execute(found[name]), found[name])


if __name__ == "__main__":
    main(sys.argv[1:])
