"""The notes of preflight on a model and its compiled program."""

import dataclasses

from pausejax.config import load_config, train_config
from pausejax.preflight import notes


def note_on(*, hlo_text="", tensor=1, **model):
  config = train_config(load_config("pretrain_c4:size=1b").to_dict())
  changes = {"scan_unroll": config.model["num_layers"], **model}
  changed = dataclasses.replace(config.model_config(32_129), **changes)
  return notes.tpu_notes(changed, hlo_text, None, unit=128, tensor=tensor)


def test_one_gpu_is_told_which_settings_are_faster():
  config = train_config(load_config("pretrain_c4:size=1b").to_dict())
  model = config.model_config(32_129)
  (note,) = notes.gpu_notes(model, num_devices=1)
  assert "--config.model.scan_unroll=24 --config.model.remat=none" in note
  unrolled = dataclasses.replace(model, scan_unroll=24)
  (note,) = notes.gpu_notes(unrolled, num_devices=1)
  assert "remat=none" in note and "scan_unroll" not in note
  fast = dataclasses.replace(unrolled, remat="none")
  assert notes.gpu_notes(fast, num_devices=1) == []
  assert notes.gpu_notes(model, num_devices=8) == []


def test_a_tpu_is_told_that_unrolled_layers_are_faster():
  (note,) = note_on(attention="xla", hlo_text="%d = dot(%q, %k)", scan_unroll=1)
  assert "--config.model.scan_unroll=24" in note
  assert not note_on(head_dim=128, scan_unroll=1)  # It does not fit.
  unrolled = dict(num_layers=3, scan_unroll=3)
  assert not note_on(attention="xla", hlo_text="%d = dot(%q, %k)", **unrolled)


def test_a_padded_head_is_noted_with_the_heads_that_are_not():
  (note,) = note_on()
  assert "model.head_dim=64 is padded to 128" in note and "50%" in note
  assert "--config.model.head_dim=128 --config.model.num_heads=16" in note
  assert not note_on(head_dim=128, num_heads=16, num_kv_heads=16)
  (grouped,) = note_on(num_kv_heads=8)
  assert "--config.model.num_heads=16 --config.model.num_kv_heads=4" in grouped
  (odd,) = note_on(num_kv_heads=1)  # Half a head does not exist.
  assert "padded" in odd and "--config" not in odd
  (split,) = note_on(num_kv_heads=8, tensor=8)  # 4 heads on 8 devices.
  assert "padded" in split and "--config" not in split


def test_a_step_without_an_attention_kernel_says_what_a_kernel_needs():
  (kernel,) = note_on(hlo_text="%splash_mha_fwd.1 = custom-call(%q)")
  assert "is padded" in kernel
  (plain,) = note_on(hlo_text="%d = dot(%q, %k)")
  assert "multiple of 128" in plain and "padded" not in plain
  assert note_on(hlo_text="%d = dot(%q, %k)", attention="xla") == []


def test_float32_is_noted():
  fast = dict(head_dim=128, num_heads=16, num_kv_heads=16)
  (note,) = note_on(**fast, dtype="float32")
  assert "computes in float32" in note
  assert not note_on(**fast, dtype="bfloat16")


def test_windowed_einsum_loops_are_noted():
  loops = [
    f"  %w{n} = (f32[]) while(%x), condition=%c, "
    f"body=%wide.windowed_dot_general_body_ag.{n}.clone"
    for n in range(3)
  ]
  (note,) = note_on(hlo_text="\n".join(loops), attention="xla")
  assert note.startswith("3 windowed einsum loops")
  assert "xla_jf_spmd_threshold_for_windowed_einsum_mib" in note
