"""A GPU or TPU that JAX would leave unused stops a run before any work."""

import importlib.util
import os
import subprocess
import sys

import pytest

from pausejax import errors
from pausejax.runtime import accelerators


def machine(root, *paths, pci=()):
  """Creates the device files of a machine."""
  for path in paths:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).touch()
  for number, (vendor, device) in enumerate(pci):
    folder = root / "sys/bus/pci/devices" / f"0000:00:{number:02}.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(vendor + "\n")
    (folder / "device").write_text(device + "\n")
  return root


@pytest.mark.parametrize(
  ("paths", "pci", "name"),
  [
    ((), (), None),
    (("dev/null", "dev/nvidiactl", "dev/accel/accel0"), (), None),
    (("dev/nvidia0", "dev/nvidiactl"), (), "an NVIDIA GPU"),
    (("dev/nvidia3",), (), "an NVIDIA GPU"),
    (
      ("proc/driver/nvidia/gpus/0000:65:00.0/information",),
      (),
      "an NVIDIA GPU",
    ),
    (("usr/lib/wsl/lib/nvidia-smi",), (), "an NVIDIA GPU"),
    (("dev/accel0", "dev/accel1"), (), "a TPU"),
    (("dev/vfio/vfio", "dev/vfio/0"), [("0x1ae0", "0x0063")], "a TPU"),
    # A network card of Google's, and somebody else's device handed through.
    (("dev/vfio/0",), [("0x1ae0", "0x0042"), ("0x10de", "0x2330")], None),
    ((), [("0x1ae0", "0x0042")], None),
  ],
)
def test_accelerators_are_detected_from_device_files(
  paths, pci, name, tmp_path
):
  found = accelerators.find_accelerator(machine(tmp_path, *paths, pci=pci))
  assert (found and found.name) == name


@pytest.fixture
def no_wish(monkeypatch):
  """An environment that does not select a platform."""
  for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "CUDA_VISIBLE_DEVICES"):
    monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
  ("path", "words"),
  [
    ("dev/nvidia0", ["jax[cuda12]", "EXTRA=cuda", "JAX_PLATFORMS=cpu"]),
    ("dev/accel0", ["jax[tpu]", "EXTRA=tpu", "JAX_PLATFORMS=cpu"]),
  ],
)
def test_missing_accelerator_support_is_one_line(
  path, words, tmp_path, no_wish, monkeypatch
):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(errors.UsageError) as failed:
    accelerators.require_used(machine(tmp_path, path))
  assert str(tmp_path / path) in failed.value.message
  assert "\n" not in failed.value.message
  assert all(word in failed.value.message for word in words)


def test_accelerator_support_that_fails_to_start_is_reported(
  tmp_path, no_wish, monkeypatch
):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
  with pytest.raises(errors.UsageError, match="JAX cannot start it"):
    accelerators.require_used(machine(tmp_path, "dev/nvidia0"))


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("JAX_PLATFORMS", "cpu"),
    ("JAX_PLATFORM_NAME", "cpu"),
    ("CUDA_VISIBLE_DEVICES", ""),
    ("CUDA_VISIBLE_DEVICES", "-1"),
  ],
)
def test_the_cpu_can_be_requested(name, value, tmp_path, no_wish, monkeypatch):
  monkeypatch.setenv(name, value)
  accelerators.require_used(machine(tmp_path, "dev/nvidia0"))


def test_a_machine_without_accelerators_runs_on_the_cpu(tmp_path, no_wish):
  accelerators.require_used(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "value"),
  [("JAX_PLATFORMS", "gpux"), ("JAX_ENABLE_X64", "perhaps")],
)
def test_an_environment_that_jax_refuses_is_one_line(name, value):
  code = (
    "import sys\n"
    "from pausejax import cli\n"
    "from pausejax.programs import score\n"
    "from pausejax.runtime import accelerators\n"
    "score.main = lambda argv: accelerators.require_used()\n"
    "sys.exit(cli.main(['score']))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    env={**os.environ, name: value},
    check=False,
  )
  assert done.returncode == 1
  assert done.stderr.startswith("pausejax: JAX does not start: ")
  assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
  ("backend", "flags", "is_noted"),
  [
    ("cpu", "", False),
    ("tpu", "", False),
    ("gpu", "", True),
    ("gpu", "--xla_gpu_autotune_level=0", True),
    ("gpu", "--xla_gpu_deterministic_ops=false", True),
    ("gpu", "--xla_gpu_deterministic_ops=true --xla_x=1", False),
    ("gpu", "--xla_x=1 --xla_gpu_deterministic_ops", False),
  ],
)
def test_a_gpu_without_the_flag_is_noted(backend, flags, is_noted):
  note = accelerators.rounding_note(backend, flags)
  assert ("bit-identical" in note) == is_noted
