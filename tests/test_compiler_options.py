"""The options of a run's compiler, and the step that libtpu makes with them."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest

from pausejax import sharding
from pausejax.preflight import compilers
from pausejax.training import compiler_options

NAME = "xla_jf_spmd_threshold_for_windowed_einsum_mib"

# Compiles a toy for 8 chips of v5e.
PROGRAM = """
import json, re
import jax
from pausejax import sharding
from pausejax.config import load_config, train_config
from pausejax.preflight import collectives, topologies
from pausejax.training import ahead, compiler_options

tree = load_config("pretrain_c4:size=tiny")
tree.model.update(num_layers=2, d_model=512, num_heads=8)
tree.data.seq_len, tree.batch_size = 128, 8
tree.mesh.update(data=1, fsdp=8)
config = train_config(tree.to_dict())
devices = topologies.described_devices(topologies.parse_topology("v5e-8"))
jax.set_mesh(sharding.make_mesh(config.mesh, devices))
compile_step = lambda: ahead.compile_step(config, config.model_config(256))
text = compile_step().hlo_text
refused = ""
compiler_options._TPU["xla_no_such_option"] = "1"
try:
  compile_step()
except Exception as e:
  refused = str(e)
print(json.dumps({
  "forward": len(re.findall(r"%splash_mha_fwd[\\w.]* = ", text)),
  "refused": refused,
  "sent": sorted(
    (one.kind, dtype, len(shape))
    for one in collectives.collectives(text) for dtype, shape in one.arrays
  ),
}))
"""


def test_the_cpu_has_no_options():
  with jax.set_mesh(sharding.data_mesh()):
    assert compiler_options.compiler_options() == {}
    assert compiler_options.options_line() == ""


def test_a_tpu_gathers_weights_whole_unless_the_user_says_otherwise(
  monkeypatch,
):
  monkeypatch.setattr(sharding, "device_kind", lambda: "TPU v5 lite")
  assert list(compiler_options.compiler_options()) == [NAME]
  assert f"{NAME}=" in compiler_options.options_line()
  monkeypatch.setenv("LIBTPU_INIT_ARGS", f"--{NAME}=8")
  assert compiler_options.compiler_options() == {}
  assert compiler_options.options_line() == ""


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu"
)
def test_the_step_of_a_toy_on_a_tpu():
  unset = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
  run = subprocess.run(
    [sys.executable, "-c", PROGRAM],
    env={**os.environ, **compilers.ENVIRONMENT, **unset},
    capture_output=True,
    text=True,
    check=True,
  )
  found = json.loads(run.stdout.splitlines()[-1])
  # The options reach the compiler, which knows those of the table.
  assert "xla_no_such_option" in found["refused"]
  # Saved for the backward pass, so it is not computed again.
  assert found["forward"] == 1
  # Weights, in bfloat16, are gathered and never summed.
  kinds = {kind for kind, dtype, _ in found["sent"] if dtype == "bf16"}
  assert "all-gather" in kinds and "all-reduce" not in kinds, found["sent"]
