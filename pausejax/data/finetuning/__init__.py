"""Examples of downstream tasks as prompts, targets and packed batches."""
