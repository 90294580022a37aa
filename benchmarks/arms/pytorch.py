"""The PyTorch arms: an optimized GPT, and Hugging Face's Llama.

Fused attention and AdamW, one product for queries, keys and values, gradients
set to None, asynchronous transfer of batches, with or without `torch.compile`;
bfloat16 under autocast with float32 parameters, as in pausejax.

B batch, T tokens, D d_model, V vocabulary rows.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.arms import plain
from pausejax.config import ModelConfig, OptimConfig, TrainConfig
from pausejax.data.batch import Batch


class Block(nn.Module):
  """Attention and feed-forward, each after a layer norm."""

  def __init__(self, d_model: int, d_ff: int, num_heads: int):
    super().__init__()
    self.num_heads = num_heads
    self.attention_norm = nn.LayerNorm(d_model)
    self.qkv = nn.Linear(d_model, 3 * d_model)
    self.mix = nn.Linear(d_model, d_model)
    self.mlp_norm = nn.LayerNorm(d_model)
    self.expand = nn.Linear(d_model, d_ff)
    self.contract = nn.Linear(d_ff, d_model)

  def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
    """Returns the stream after the block."""
    x_BTD = x_BTD + self.mix(self._attend(self.attention_norm(x_BTD)))
    expanded = self.expand(self.mlp_norm(x_BTD))
    return x_BTD + self.contract(functional.gelu(expanded, approximate="tanh"))

  def _attend(self, x_BTD: torch.Tensor) -> torch.Tensor:
    batch_size, seq_len, d_model = x_BTD.shape
    heads = (batch_size, seq_len, self.num_heads, d_model // self.num_heads)
    q, k, v = (
      part.view(heads).transpose(1, 2)
      for part in self.qkv(x_BTD).split(d_model, dim=-1)
    )
    mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return mixed.transpose(1, 2).reshape(x_BTD.shape)


class GPT(nn.Module):
  """Maps ids and targets to the mean loss."""

  def __init__(self, config: ModelConfig):
    super().__init__()
    c = config
    self.embedding = nn.Embedding(c.vocab_size, c.d_model)
    self.position = nn.Embedding(c.max_seq_len, c.d_model)
    self.layers = nn.ModuleList(
      Block(c.d_model, c.d_ff, c.num_heads) for _ in range(c.num_layers)
    )
    self.norm = nn.LayerNorm(c.d_model)
    self.head = nn.Linear(c.d_model, c.vocab_size, bias=False)
    if c.tied_embeddings:
      self.head.weight = self.embedding.weight

  def forward(
    self, tokens_BT: torch.Tensor, targets_BT: torch.Tensor
  ) -> torch.Tensor:
    """Returns the mean over all targets, in nats."""
    positions_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    x_BTD = self.embedding(tokens_BT) + self.position(positions_T)
    for layer in self.layers:
      x_BTD = layer(x_BTD)
    return _mean_loss(self.head(self.norm(x_BTD)), targets_BT)


class Llama(nn.Module):
  """Hugging Face's Llama; maps ids and targets to the mean loss."""

  def __init__(self, config: ModelConfig):
    import transformers

    super().__init__()
    c = config
    self.hf = transformers.LlamaForCausalLM(
      transformers.LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.d_model,
        intermediate_size=c.d_ff,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_kv_heads,
        max_position_embeddings=c.max_seq_len,
        rms_norm_eps=1e-6,
        tie_word_embeddings=c.tied_embeddings,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=None,
      )
    )

  def forward(
    self, tokens_BT: torch.Tensor, targets_BT: torch.Tensor
  ) -> torch.Tensor:
    """Returns the mean over all targets, in nats."""
    logits_BTV = self.hf(input_ids=tokens_BT, use_cache=False).logits
    return _mean_loss(logits_BTV, targets_BT)


class Trainer:
  """A model and its optimizer, on the accelerator if there is one."""

  def __init__(
    self,
    model: nn.Module,
    config: TrainConfig,
    *,
    compiled: bool,
  ):
    """Reads the optimizer's settings and the compute dtype from `config`."""
    self._device = device()
    self._dtype = getattr(torch, config.model["dtype"])
    self._clip_norm = config.optim.clip_norm
    self.model = model.to(self._device)
    self._forward = (
      torch.compile(self.model, dynamic=False) if compiled else self.model
    )
    self._optimizer = _adamw(self.model, config.optim)

  def dispatch(self, batch: Batch) -> torch.Tensor:
    """Starts a step and returns its loss, which may be awaited."""
    tokens, targets = self._put(batch["tokens"]), self._put(batch["targets"])
    with torch.autocast(
      self._device, self._dtype, enabled=self._dtype != torch.float32
    ):
      loss = self._forward(tokens, targets)
    self._optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm)
    self._optimizer.step()
    return loss.detach()

  def step(self, batch: Batch) -> float:
    """Takes a step and returns its loss, in nats per target."""
    return float(self.dispatch(batch))

  def _put(self, ids: np.ndarray) -> torch.Tensor:
    host = torch.from_numpy(ids.astype(np.int64))
    if self._device == "cuda":
      host = host.pin_memory()
    return host.to(self._device, non_blocking=True)


def device() -> str:
  """Returns PyTorch's device."""
  return "cuda" if torch.cuda.is_available() else "cpu"


def use_attention(*, cudnn_only: bool) -> None:
  """Lets PyTorch choose the attention kernel, or selects cuDNN's."""
  torch.backends.cuda.enable_cudnn_sdp(True)
  torch.backends.cuda.enable_flash_sdp(not cudnn_only)
  torch.backends.cuda.enable_mem_efficient_sdp(not cudnn_only)


def fresh(kind: str, config: ModelConfig) -> nn.Module:
  """Returns a new "gpt" or "llama" on the device, matrices normal 0.02."""
  with torch.device(device()):
    model = {"gpt": GPT, "llama": Llama}[kind](config)
  with torch.no_grad():
    for parameter in model.parameters():
      if parameter.ndim == 2:
        parameter.normal_(std=0.02)
  return model


def gpt(config: ModelConfig, weights: dict[str, Any]) -> GPT:
  """Returns the GPT with weights from `ours.weights`."""
  model = GPT(config)
  flat = plain.joined(weights)
  with torch.no_grad():
    _copy(model.embedding.weight, flat["embedding"])
    _copy(model.position.weight, flat["position"])
    _load(model.norm, flat["norm"])
    if "head" in flat:
      _copy(model.head.weight, flat["head"].T)
    for layer, values in zip(model.layers, flat["layers"], strict=True):
      for name, value in values.items():
        _load(getattr(layer, name), value)
  return model


def llama(config: ModelConfig, weights: dict[str, Any]) -> Llama:
  """Returns the Llama with weights from `ours.weights`."""
  model = Llama(config)
  inner = model.hf.model
  with torch.no_grad():
    _copy(inner.embed_tokens.weight, weights["embedding"])
    _load(inner.norm, weights["norm"])
    if "head" in weights:
      _copy(model.hf.lm_head.weight, weights["head"].T)
    for layer, values in zip(inner.layers, weights["layers"], strict=True):
      for module, name in (
        (layer.input_layernorm, "attention_norm"),
        (layer.self_attn.q_proj, "query"),
        (layer.self_attn.k_proj, "key"),
        (layer.self_attn.v_proj, "value"),
        (layer.self_attn.o_proj, "mix"),
        (layer.post_attention_layernorm, "mlp_norm"),
        (layer.mlp.gate_proj, "gate"),
        (layer.mlp.up_proj, "expand"),
        (layer.mlp.down_proj, "contract"),
      ):
        _load(module, values[name])
  return model


def _mean_loss(logits_BTV, targets_BT):
  return functional.cross_entropy(
    logits_BTV.view(-1, logits_BTV.shape[-1]), targets_BT.view(-1)
  )


def _adamw(model: nn.Module, optim: OptimConfig):
  """Returns fused AdamW, with weight decay on matrices as in pausejax."""
  decayed, rest = [], []
  for name, parameter in model.named_parameters():
    is_decayed = parameter.ndim == 2 and not name.startswith("position")
    (decayed if is_decayed else rest).append(parameter)
  kwargs = optim.kwargs
  return torch.optim.AdamW(
    [
      {"params": decayed, "weight_decay": kwargs["weight_decay"]},
      {"params": rest, "weight_decay": 0.0},
    ],
    lr=optim.learning_rate,
    betas=(kwargs["b1"], kwargs["b2"]),
    fused=True,
  )


def _load(module: nn.Module, values: dict[str, np.ndarray]) -> None:
  """Copies "scale" or "kernel" [in, out], and "bias", into a module."""
  matrix = values["kernel"].T if "kernel" in values else values["scale"]
  _copy(module.weight, matrix)
  if "bias" in values:
    _copy(module.bias, values["bias"])


def _copy(parameter: nn.Parameter, value: np.ndarray) -> None:
  parameter.copy_(torch.from_numpy(np.array(value)))
