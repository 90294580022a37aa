"""The estimate of a run's step, with the work that it does."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from pausejax.config import ModelConfig, TrainConfig
from pausejax.preflight import collectives
from pausejax.preflight.attention_kernels import KERNEL_EFFICIENCY
from pausejax.preflight.estimate import Estimate, estimate
from pausejax.preflight.topologies import Topology
from pausejax.runtime.chips import Chip

NUM_DEAREST = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class EstimatedStep:
  """An estimate, and the work that the step does in this time.

  Attributes:
    times: the estimate for one device.
    chip: the device.
    num_devices: number of devices.
    tokens_per_step: of the global batch.
    flops_per_token: with causal attention at half the square.
    whole_flops_per_token: with attention over the whole square.
  """

  times: Estimate
  chip: Chip
  num_devices: int
  tokens_per_step: int
  flops_per_token: float
  whole_flops_per_token: float

  def utilizations(self, seconds: float) -> dict[str, float]:
    """Returns the MFU of a step that takes this time, by convention.

    Keys: "causal" counts attention at half the square, "whole" at the whole
    square as nanochat and llm-foundry do, both of the peak of the data sheet;
    "causal_calibrated" is of the rate of a plain product in the cost model.
    """
    assert self.chip.cost_model is not None
    work = self.tokens_per_step / self.num_devices / seconds
    peak = self.chip.peak_flops
    causal = work * self.flops_per_token / peak
    return {
      "causal": causal,
      "whole": work * self.whole_flops_per_token / peak,
      "causal_calibrated": causal / self.chip.cost_model.product_share,
    }

  def as_data(self) -> dict[str, Any]:
    """Returns it as plain values, for JSON."""
    overlapped, serial = self.times.bounds
    return {
      **dataclasses.asdict(self.times),
      "dearest": [
        dataclasses.asdict(one) for one in self.times.dearest[:NUM_DEAREST]
      ],
      "step_seconds": overlapped,
      "step_seconds_without_overlap": serial,
      "tokens_per_second": self.tokens_per_step / overlapped,
      "mfu": self.utilizations(overlapped),
      "mfu_without_overlap": self.utilizations(serial),
      "cost_model": dataclasses.asdict(self.chip)["cost_model"],
      "kernel_efficiency": KERNEL_EFFICIENCY,
    }


def estimated_step(
  hlo_text: str,
  config: TrainConfig,
  model_config: ModelConfig,
  topology: Topology,
  devices: Sequence[Any],
) -> EstimatedStep:
  """Returns the estimate of a compiled train step.

  Args:
    hlo_text: the program, as libtpu prints it.
    config: the run.
    model_config: its model.
    topology: what it was compiled for, TPUs with a cost model.
    devices: the devices in the order of the mesh.

  Raises:
    UserError: the program has no estimated cycles.
  """
  # Imported here: the environment of the compiler is set before JAX starts.
  from pausejax.runtime import flops

  seq_len = config.data.seq_len
  count = lambda full: flops.per_token(
    model_config, seq_len, full_attention=full
  )
  times = estimate(
    hlo_text,
    topology.chip,
    window=model_config.window,
    collectives=collectives.collectives(hlo_text),
    slices=[getattr(d, "slice_index", 0) for d in devices],
  )
  return EstimatedStep(
    times=times,
    chip=topology.chip,
    num_devices=topology.num_devices,
    tokens_per_step=config.batch_size * seq_len,
    flops_per_token=count(False),
    whole_flops_per_token=count(True),
  )
