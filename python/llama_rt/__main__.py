"""`python -m llama_rt` is the command `llama-rt`."""

import sys

from llama_rt.cli import main

if __name__ == "__main__":
    sys.exit(main())
