"""Try the wheels as a user has them: python wheels/trial.py --python python3.11 python3.12 --torch 2.10.0 newest.

For each Python and each torch a fresh virtual environment, from an index and the folder of the wheels, and nothing else
on PATH: no compiler. In it, from another folder: the import, the native backend, the command `mdnkernels` without the
extra `train`, and tests of the ops. A copy of tests/ alone is there, so that what is imported is the wheel's.
`--train` also installs the extra, and draws pictures, fits, evaluates and predicts. Prints a table, a row each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What the tests of the ops import.
TEST_PACKAGES = ("hypothesis>=6.100", "mpmath>=1.3", "pybind11>=2.12", "pytest>=8.0")
TESTS = ("tests/ops/test_matrix.py", "tests/ops/test_torch_integration.py", "tests/native/test_memory.py")
CHOSEN = "native and (float32 or bfloat16 or opcheck) or memory"
HEADER = ("Python", "torch", "CUDA", "import s", "native", "CUDA library", "tests", "train", "minutes")

STATE = """
import json, time
start = time.perf_counter()
import torch
between = time.perf_counter()
import mdnkernels
end = time.perf_counter()
from pathlib import Path
from mdnkernels import native
from mdnkernels.native import library
assert native.problem is None, native.problem
assert Path(mdnkernels.__file__).is_relative_to(FOLDER), mdnkernels.__file__
if library.CUDA_PATH.exists():
    torch.ops.load_library(str(library.CUDA_PATH))  # which needs no GPU
loss = mdnkernels.mixture_nll(*(torch.zeros(2, n, requires_grad=True) for n in (3, 6, 6)), torch.zeros(2, 2))
loss.backward()
print(json.dumps({
    "torch": torch.__version__, "CUDA": str(torch.version.cuda), "import s": f"{end - start:.1f} ({end - between:.1f})",
    "native": native.simd_level(), "CUDA library": "loads" if library.CUDA_PATH.exists() else "-",
}))
"""

# The last command draws, trains, evaluates and predicts in one.
DEMO = (
    "demo",
    "--tasks",
    "detection",
    "--train-pictures",
    "8",
    "--val-pictures",
    "4",
    "--epochs",
    "1",
    "--processes",
    "0",
)


class Trial:
    """One environment, and what is found in it."""

    def __init__(self, python: str, folder: Path) -> None:
        """Make a virtual environment of `python` in `folder`."""
        self.folder = folder / "venv"
        self.python = self.folder / "bin" / "python"
        subprocess.run([python, "-m", "venv", str(self.folder)], check=True)
        # No compiler, and nothing of the checkout.
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CXX", "CC")}
        self.environment = {**kept, "PATH": str(self.folder / "bin"), "OMP_NUM_THREADS": "1"}
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()

    def install(self, *arguments: str) -> None:
        """Install with pip."""
        subprocess.run([self.python, "-m", "pip", "install", "--quiet", *arguments], check=True)

    def run(self, *command: str, status: int = 0) -> str:
        """Run a command of the environment from another folder; return what it prints. It must end with `status`."""
        done = subprocess.run(
            [self.folder / "bin" / command[0], *command[1:]],
            cwd=self.elsewhere,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode != status:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}, not {status}:\n{done.stdout}")
        return done.stdout

    def state(self) -> dict[str, str]:
        """Return what an import finds, which must be the wheel's, with its native library."""
        text = self.run("python", "-W", "error::RuntimeWarning", "-c", f"FOLDER = {str(self.folder)!r}\n{STATE}")
        return dict(json.loads(text.splitlines()[-1]))

    def try_command(self) -> None:
        """Ask the command for help and for what it must refuse without the extra's packages."""
        assert "loaded, SIMD level" in self.run("mdnkernels")
        assert "Without a command" in self.run("mdnkernels", "--help")
        refusal = self.run("mdnkernels", "fit", status=2)
        assert "error: mdnkernels fit needs" in refusal, refusal
        assert "pip install 'mdnkernels[train]'" in refusal, refusal

    def test(self, tests: Sequence[str], chosen: str) -> str:
        """Run tests in a copy of their folder; return pytest's last line."""
        for name in ("tests", "pyproject.toml"):
            source, target = ROOT / name, self.elsewhere / name
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        options = ["-q", "-m", "not slow", "-k", chosen, "-p", "no:cacheprovider"]
        last = self.run("python", "-m", "pytest", *options, *tests).strip().splitlines()[-1]
        return last.strip("= ").partition(" in ")[0]

    def train(self) -> str:
        """Train, evaluate, draw and predict with the extra's packages."""
        assert "usage: mdnkernels fit" in self.run("mdnkernels", "fit", "--help")
        self.run("mdnkernels", *DEMO, "--output", "demo")
        run = next(path.parent for path in sorted((self.elsewhere / "demo").rglob("config.json")))
        pictures = (
            sorted(str(path) for path in (self.elsewhere / "demo").rglob("*.jpg"))[:2]
            or sorted(str(path) for path in (self.elsewhere / "demo").rglob("images/**/*.png"))[:2]
        )
        self.run("mdnkernels", "evaluate", str(run))
        self.run("mdnkernels", "predict", "--run", str(run), "--output", "predictions", *pictures)
        return "fits, evaluates, predicts"


def try_wheels(python: str, torch: str, options: argparse.Namespace) -> dict[str, str]:
    """Return a row of the table."""
    start = time.perf_counter()
    wheels = [str(path) for path in sorted(options.wheels.glob("mdnkernels*.whl"))]
    (main,) = [wheel for wheel in wheels if Path(wheel).name.startswith("mdnkernels-")]
    row = dict.fromkeys(HEADER, "-")
    with tempfile.TemporaryDirectory(dir=options.room) as folder:
        trial = Trial(python, Path(folder))
        if options.packages is None:
            trial.install("torch" if torch == "newest" else f"torch=={torch}", *TEST_PACKAGES)
        else:
            (packages,) = (trial.folder / "lib").glob("python*/site-packages")
            (packages / "others.pth").write_text(str(options.packages.resolve()))
        trial.install("--no-deps" if options.packages else "--upgrade-strategy=only-if-needed", *wheels)
        row |= {"Python": trial.run("python", "--version").split()[1], **trial.state()}
        if options.packages is None or not (options.packages / "tyro").exists():
            trial.try_command()
        row["tests"] = trial.test(options.tests, options.chosen)
        if options.train:
            trial.install(f"{main}[train]")
            row["train"] = trial.train()
    row["minutes"] = f"{(time.perf_counter() - start) / 60:.1f}"
    return row


def main() -> int:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist", help="folder of one version's wheels (dist)")
    parser.add_argument("--python", nargs="+", default=[sys.executable], metavar="PYTHON")
    parser.add_argument("--torch", nargs="+", default=["newest"], metavar="VERSION", help="or newest")
    parser.add_argument("--train", action="store_true", help="try the extra `train` too")
    parser.add_argument("--packages", type=Path, help="site-packages to take torch from, in place of installing it")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="FILE")
    parser.add_argument("--chosen", default=CHOSEN, metavar="EXPRESSION", help="pytest's -k")
    parser.add_argument("--room", type=Path, help="folder for the environments, 7 GB each, one at a time")
    options = parser.parse_args()
    for names in (HEADER, ["---"] * len(HEADER)):
        print("|", " | ".join(names), "|", flush=True)
    for python in options.python:
        for torch in options.torch:
            row = try_wheels(python, torch, options)
            print("|", " | ".join(row[name] for name in HEADER), "|", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
