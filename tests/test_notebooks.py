"""The notebooks run from the first cell to the last, in a kernel of their own, as in Colab.

Their install cells do not: they need the network. What they name is checked.
"""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
  return nbformat.read(request.param, as_version=4)


def is_install(cell) -> bool:
  return "install" in cell.metadata.get("tags", ())


@pytest.mark.filterwarnings("default")  # the kernel is another process; these are Jupyter's own
def test_it_runs_without_a_warning(notebook, tmp_path, monkeypatch):
  monkeypatch.delenv("XLA_FLAGS")  # one device, compiled as a reader's is: most of it is training
  notebook.cells = [cell for cell in notebook.cells if not is_install(cell)]
  where = {"metadata": {"path": str(tmp_path)}}
  nbclient.NotebookClient(notebook, timeout=400, resources=where).execute()
  for cell in notebook.cells:
    for output in cell.get("outputs", ()):
      assert "Warning" not in output.get("text", ""), cell.source


def test_it_is_stored_without_outputs_and_opens_in_colab(notebook, request):
  assert not any(cell.get("outputs") for cell in notebook.cells)
  name = request.node.callspec.id
  assert f"/blob/main/notebooks/{name}.ipynb)" in notebook.cells[0].source


def test_it_installs_jaxmul_and_keeps_jax(notebook):
  (install,) = filter(is_install, notebook.cells)
  assert 'git+https://github.com/jaxmul/jaxmul"' in install.source  # no tag: there is none yet
  assert '{name}=={version(name)}" for name in ("jax", "jaxlib", "numpy")' in install.source
  assert install.source.endswith("{kept}")
