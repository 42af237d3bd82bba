"""Runs the notebook from its top to its end: `python -m documentation.notebook`. An exception in a cell fails.

`make docs` does so. The outputs are not kept: they would make each change of the notebook unreadable.
"""

from __future__ import annotations

from documentation.prose import ROOT

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
CELL_SECONDS = 300


def main() -> None:
    """Run every cell.

    Raises:
        CellExecutionError: a cell failed; the error shows it.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3").execute()
    print(f"{len(notebook.cells)} cells of {NOTEBOOK.name} run")


if __name__ == "__main__":
    main()
