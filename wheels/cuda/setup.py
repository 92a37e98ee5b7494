"""Builds mdnkernels-cuda13, or -cuda12 with a toolkit of CUDA 12: a wheel of the CUDA library alone, in a checkout.

It is a distribution beside mdnkernels and not another mdnkernels. As a local version (+cu130) an index's installers
would take the larger file for everybody, and PyPI takes none. As a whole mdnkernels under another name it would own
files of the first one's, as onnxruntime-gpu does. CUDA's major version is in the name because the library needs the
libcudart.so of that version, which a torch for this CUDA has loaded: it is neither in the wheel nor a requirement.
mdnkernels looks for the wheel of its torch's CUDA, and two may be installed.

`setup.py` in the checkout says what is built with what, and TORCH_CUDA_ARCH_LIST for which GPUs (default: all).
"""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path

from setuptools import Extension, setup

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
os.environ["MDNKERNELS_BUILD_CUDA"] = "1"
checkout = runpy.run_path(str(ROOT / "setup.py"))
project = (ROOT / "pyproject.toml").read_text()
toolkit = checkout["cuda_toolkit"]()
if toolkit is None:
    raise SystemExit("no CUDA toolkit was found: set CUDA_HOME to one that holds bin/nvcc and libcudart.so")
# For every GPU that this nvcc knows, whatever is present, and PTX for those to come.
known = checkout["known_architectures"](toolkit / "bin" / "nvcc")
architectures = [name for name in checkout["ARCHITECTURES"] if name in known]
os.environ.setdefault("TORCH_CUDA_ARCH_LIST", f"{';'.join(architectures)}+PTX")
major = checkout["toolkit_version"](toolkit).split(".")[0]
version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1]
package = f"mdnkernels_cuda{major}"

setup(
    name=f"mdnkernels-cuda{major}",
    version=version,
    description=f"The CUDA {major} kernels of mdnkernels",
    long_description=(HERE / "README.md").read_text().replace("13", major),
    long_description_content_type="text/markdown",
    author="mdnkernels",
    license="Apache-2.0",
    python_requires=re.search(r'^requires-python = "(.+)"$', project, re.MULTILINE)[1],
    install_requires=[f"mdnkernels=={version}"],
    packages=[package],
    package_dir={package: "package"},
    ext_modules=[Extension(f"{package}.libmdnkernels_cuda", sources=[])],
    cmdclass={"build_ext": checkout["BuildNative"], "bdist_wheel": checkout["PlatformWheel"]},
)
