"""The CUDA library of mdnkernels, for one major version of CUDA. mdnkernels finds and loads it; nothing is imported."""
