"""Peak host memory of `pausejax import`.

  python -m benchmarks.import_memory [--format=gguf] [--files=4]

A child process imports a random model (Llama, bfloat16 in safetensors or Q8_0
in GGUF) and reports the peak of its resident memory, mapped files included. The
same of a model of almost no size is subtracted. Allowed is the state (float32
parameters, on CPU in host memory) and 1.3 times the largest tensor, in the
dtype in which it is read.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

MB = 1e6
_SMALL = dict(
  model_type="llama",
  vocab_size=320,
  hidden_size=64,
  num_hidden_layers=1,
  num_attention_heads=4,
  num_key_value_heads=2,
  intermediate_size=64,
  max_position_embeddings=64,
  rms_norm_eps=1e-5,
)
_LARGE = _SMALL | dict(
  vocab_size=49_152,
  hidden_size=1024,
  num_hidden_layers=8,
  num_attention_heads=16,
  num_key_value_heads=8,
  intermediate_size=2816,
)
_CHILD = """
import json, pathlib, resource, sys
import jax
from pausejax import sharding
from pausejax.config import MeshConfig
from pausejax.interop import reading

mesh = MeshConfig(data=1, fsdp=-1, sequence=1, tensor=1)
with jax.set_mesh(sharding.make_mesh(mesh)):
  source = reading.check_folder(pathlib.Path(sys.argv[1]))
  model = jax.block_until_ready(reading.load_params(source))
sizes = [x.nbytes for x in jax.tree.leaves(model)]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(dict(state=sum(sizes), peak=peak)))
"""


def main() -> None:
  """Prints the peak, what is allowed, and exits with 1 if it is more."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--format", choices=("safetensors", "gguf"))
  parser.add_argument("--files", type=int, default=4)
  options = parser.parse_args()
  kind = options.format or "safetensors"
  with tempfile.TemporaryDirectory() as folder:
    small, _ = _measure(pathlib.Path(folder, "small"), _SMALL, kind, 1)
    large, largest = _measure(
      pathlib.Path(folder, "large"), _LARGE, kind, options.files
    )
  used = large["peak"] - (small["peak"] - small["state"]) - large["state"]
  print(
    f"{kind}: peak {large['peak'] / MB:,.0f} MB; without any model "
    f"{(small['peak'] - small['state']) / MB:,.0f} MB, state "
    f"{large['state'] / MB:,.0f} MB; beyond both {used / MB:,.0f} MB, "
    f"{used / largest:.2f} of the largest tensor ({largest / MB:,.0f} MB)"
  )
  sys.exit(used > 1.3 * largest)


def _measure(
  folder: pathlib.Path, values: dict, kind: str, num_files: int
) -> tuple[dict[str, int], int]:
  """Returns what the child reports and the bytes of the largest tensor."""
  from tests import gguf_writer, open_models

  shapes = open_models.llama_shapes(values)
  size = 2 if kind == "safetensors" else 4
  folder.mkdir()
  if kind == "gguf":
    tensors = {n: np.full(s, 0.01, np.float32) for n, s in shapes.items()}
    gguf_writer.write_gguf(folder / "m.gguf", values, tensors, kind="Q8_0")
  else:
    import ml_dtypes

    tensors = {
      n: np.full(s, 0.01, ml_dtypes.bfloat16) for n, s in shapes.items()
    }
    open_models.write_folder(folder, values, tensors, num_files=num_files)
  del tensors
  ended = subprocess.run(
    [sys.executable, "-c", _CHILD, str(folder)],
    capture_output=True,
    text=True,
    check=True,
  )
  largest = max(int(np.prod(s)) for s in shapes.values()) * size
  return json.loads(ended.stdout.splitlines()[-1]), largest


if __name__ == "__main__":
  main()
