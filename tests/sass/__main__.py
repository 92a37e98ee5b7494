"""python -m tests.sass prints the table of docs/gpu.md."""

from tests.sass.expected import table

if __name__ == "__main__":
    print(table())
