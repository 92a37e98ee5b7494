"""Training, evaluation and prediction: `python -m train --help`."""
