"""What a trained model is worth: answers, metrics, tables of runs."""
