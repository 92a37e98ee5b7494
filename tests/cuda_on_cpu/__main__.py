"""python -m tests.cuda_on_cpu builds the CUDA kernels for the CPU, for the tests to find."""

import sys
import time

from tests import cuda_on_cpu

if __name__ == "__main__":
    if cuda_on_cpu.compiler() is None:
        print(cuda_on_cpu.NO_COMPILER)
        sys.exit()
    begin = time.monotonic()
    try:
        module = cuda_on_cpu.build()
    except RuntimeError as error:
        sys.exit(str(error))
    print(
        f"the CUDA kernels for the CPU, after {time.monotonic() - begin:.0f} s: {module.relative_to(cuda_on_cpu.ROOT)}"
    )
