"""What train.py, sample.py and evaluate.py share: the configuration of a run, data, pictures and metrics."""
