"""Continues a prompt: the model reads it, waits M pauses, then answers.

  pausejax generate --checkpoint=run --pauses=10 --prompt="The assert statement"

`--checkpoint` is the workdir of a run; model and tokenizer come from there.
Temperature 0 takes the most likely token every time.
"""

import pathlib

from pausejax import commandline, errors
from pausejax.data import tokenizers


def main(argv: list[str]) -> int:
  """Prints the prompt and its continuation."""
  parser = commandline.Parser("generate", __doc__, config=False)
  add = parser.add_argument
  add("--checkpoint", required=True, help="workdir of a training run")
  add("--prompt", required=True, help="text to continue")
  add("--pauses", type=int, default=0, help="pauses after the prompt (0)")
  add("--max_new_tokens", type=int, default=64, help="at most so many (64)")
  add("--temperature", type=float, default=0.0, help="0 is greedy (0)")
  add("--seed", type=int, default=0, help="of the sampling (0)")
  options, _ = parser.parse(argv)
  errors.require_in_range("--pauses", options.pauses, 0)
  errors.require_in_range("--max_new_tokens", options.max_new_tokens, 1)
  errors.require_in_range("--seed", options.seed, 0, 2**63 - 1)
  errors.require_in_range("--temperature", options.temperature, 0.0)
  print(options.prompt + _continue(options))
  return 0


def _continue(options) -> str:
  """Returns the text that follows the prompt."""
  import jax
  from etils import epath

  from pausejax.checkpoints.store import Store
  from pausejax.inference import decode
  from pausejax.model import decoder
  from pausejax.settings import ModelConfig

  workdir = pathlib.Path(options.checkpoint).resolve()
  store = Store(epath.Path(workdir / "checkpoints"), None)
  meta = store.newest_meta()
  tokenizer = _tokenizer(workdir, meta)
  config = ModelConfig(**meta["model"])
  prompt = [tokenizer.bos_id, *tokenizer.encode([options.prompt])[0]]
  decode.check_length(
    len(prompt), options.pauses, options.max_new_tokens, config.max_seq_len
  )
  model = store.restore_params(
    jax.eval_shape(lambda: decoder.init(config, 0)), meta["step"]
  )
  tokens_BT, is_real_BT = decode.left_pad(
    [prompt], num_pauses=options.pauses, pause_id=tokenizer.pause_id
  )
  ids_BN = decode.generate(
    model,
    tokens_BT,
    is_real_BT,
    jax.random.key(options.seed),
    num_new=options.max_new_tokens,
    temperature=options.temperature,
    eos_id=tokenizer.eos_id,
    pause_id=tokenizer.pause_id,
  )
  ids = ids_BN[0].tolist()
  end = ids.index(tokenizer.eos_id) if tokenizer.eos_id in ids else len(ids)
  # Together with the prompt: SentencePiece drops a leading space.
  whole = tokenizer.decode([*prompt[1:], *ids[:end]])
  return whole.removeprefix(tokenizer.decode(prompt[1:]))


def _tokenizer(workdir: pathlib.Path, meta: dict) -> tokenizers.PauseTokenizer:
  """Returns the tokenizer that the run kept, checked against the checkpoint."""
  files = sorted(workdir.glob("tokenizer.*"))
  tokenizer = tokenizers.load(str(files[0]) if files else "bytes")
  errors.require_same(
    f"the tokenizer in {workdir}", tokenizer.fingerprint(), meta["tokenizer"]
  )
  return tokenizer
