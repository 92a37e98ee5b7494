"""For a machine with a GPU: do the ops and the networks work on it, and how long do they take? `make gpu-check`.

    python -m benchmarks.gpu_check --minutes 8 --output DIR

needs a checkout, a torch with CUDA, and nothing installed. `plan.py` lists the stages in their order. Each runs in
processes of its own (`supervisor.py`), which write every result as it comes (`records.py`); `report.py` makes of these
report.md and timings.csv after every stage.
"""
