"""The compiled CUDA kernels carried out on the CPU, instruction by instruction: `python -m benchmarks.sass --help`.

launches.py runs the public functions of mdnkernels and hands the launches that tests/cuda_on_cpu makes to a machine.
listing.py reads the instructions (SASS) of nvcc's cubins; machine.py executes them, as instructions.py says, which
gathers control.py, floats.py, integers.py, moves.py and operands.py. expected.py turns counts into times. The launches
come from tests/cuda_on_cpu, the cubins from the tests' ptxas.py: the tool needs both.
It computes what the kernels give and how often each instruction is issued, not how long a GPU takes.
"""
