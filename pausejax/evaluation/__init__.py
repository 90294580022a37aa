"""Evaluation of trained models: answers, metrics, intervals, results."""
