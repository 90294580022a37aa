#!/bin/sh
# All steps from the vocabulary to a report: `make demo`, or paste it line by
# line. All output is in ./demo; after the install it takes about three minutes on
# two CPU cores.
set -eu
BIN=${BIN:-.venv/bin}
DEMO=${DEMO:-demo}
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" PYTHONUNBUFFERED=1
rm -rf "$DEMO"

echo "== 1. A vocabulary of 2,048 pieces, and <pause>, from the docs in CPython"
"$BIN/pausejax" tokenizer train --config=configs/smoke.py --vocab_size=2048 \
  --out="$DEMO/tokenizer.model"

echo "== 2. Text, tokenized and cut into segments once"
"$BIN/pausejax" segments --config=configs/smoke.py \
  --config.data.tokenizer="$DEMO/tokenizer.model" --out="$DEMO/segments"

train() {
  "$BIN/pausejax" train --config=configs/smoke.py --workdir="$DEMO/pause" \
    --config.data.tokenizer="$DEMO/tokenizer.model" \
    --config.data.segments_dir="$DEMO/segments" "$@"
}

echo "== 3. Pretraining with 10% pauses, stopped half way as a time limit would"
train --config.stop_at_step=100

echo "== 4. The same command again: it resumes from its checkpoint and finishes"
train

echo "== 5. A continuation, after 10 pauses"
"$BIN/pausejax" generate --checkpoint="$DEMO/pause" --pauses=10 \
  --prompt="The assert statement is" --max_new_tokens=40 --temperature=0.7

echo "== 6. Finetuning on the last words of passages, 10 pauses after each"
"$BIN/pausejax" inspect --config=configs/finetune_smoke.py -n 1 \
  --tokenizer="$DEMO/tokenizer.model" --task=stdlib_cloze --pauses=10
"$BIN/pausejax" train --config=configs/finetune_smoke.py \
  --init_from="$DEMO/pause" --workdir="$DEMO/cloze"

echo "== 7. Held-out passages, answered after 0, 2 and 10 pauses"
"$BIN/pausejax" evaluate --checkpoint="$DEMO/cloze" --pauses=0,2,10

echo "== 8. The report, one page"
"$BIN/pausejax" report --workdir="$DEMO"

cat <<END

Everything is in $DEMO:
  $DEMO/report.html             losses, answers against pauses, configs: open it
  $DEMO/pause/metrics.jsonl     one line per step: losses by class, tokens, speed
  $DEMO/pause/checkpoints       the newest three, each one atomic
  $DEMO/pause/config.json       all settings, to run it again
  $DEMO/segments/index.json     contents of the segments
  $DEMO/cloze/evaluations       one JSON per condition, and its predictions
Next:
  $BIN/pausejax train --config=configs/smoke.py:pause=false ...  the paired standard run
  $BIN/pausejax study --config=configs/study_smoke.py --workdir=study   four variants, one table
  $BIN/pausejax train --help                                     every field, its default, its meaning
END
