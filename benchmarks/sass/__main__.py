"""python -m benchmarks.sass prints the table of docs/gpu.md."""

from benchmarks.sass.expected import table

if __name__ == "__main__":
    print(table())
