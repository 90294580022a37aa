"""The English text inside CPython: the built-in corpus, without network.

  "The \\"assert\\" statement\\n*******\\n\\nAssert statements are a convenient
   way to insert debugging assertions into a program: ..."  (pydoc "assert")

The language reference's topics, then the docstrings of each standard library
module as one document: about 530 documents and 2.2 MB. Sources are parsed,
never run. The text depends on the Python version, so a digest identifies the
corpus. License: PSF-2.0.
"""

import ast
import functools
import pathlib
import sysconfig

from pausejax import tasks
from pausejax.config import DataConfig
from pausejax.tasks import corpora

_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
_MIN_CHARS = 200  # Shorter documents have no prose to learn from.


@functools.cache
def stdlib_documents() -> tuple[str, ...]:
  """Returns the documents; their order depends on the Python version only."""
  from pydoc_data import topics

  texts = [topics.topics[name] for name in sorted(topics.topics)]
  texts += [_docstrings(path) for path in modules()]
  return tuple(t for t in texts if len(t) >= _MIN_CHARS)


def modules() -> list[pathlib.Path]:
  """Returns the source files of the standard library, tests left out."""
  root = pathlib.Path(sysconfig.get_paths()["stdlib"])
  return sorted(
    p
    for p in root.rglob("*.py")
    if not _NOT_LIBRARY & set(p.relative_to(root).parts)
  )


def source(data: DataConfig) -> corpora.CorpusSource:
  """Returns the built-in corpus."""
  return corpora.PythonSource(
    name="stdlib_docs", load=stdlib_documents, holdout_every=data.holdout_every
  )


def _docstrings(path: pathlib.Path) -> str:
  """Returns all docstrings of a module in source order, "" if none."""
  documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
  docstrings = [
    (getattr(node, "lineno", 0), ast.get_docstring(node))
    for node in ast.walk(ast.parse(path.read_bytes()))
    if isinstance(node, documented)
  ]
  return "\n\n".join(text for _, text in sorted(docstrings, key=_line) if text)


def _line(line_and_text: tuple[int, str | None]) -> int:
  return line_and_text[0]


tasks.register(tasks.PretrainingTask("stdlib_docs", source))
