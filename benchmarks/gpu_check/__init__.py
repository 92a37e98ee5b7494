"""Check the ops and the networks on a machine with a GPU, and time them: `make gpu-check`.

    python -m benchmarks.gpu_check --minutes 8 --output DIR

needs a checkout and a torch with CUDA. Nothing has to be installed.

`plan.py` lists the stages in their order. `supervisor.py` runs each stage in processes of its own. These processes
write every result as it comes (`records.py`). `report.py` writes report.md and timings.csv anew after every stage.
"""
