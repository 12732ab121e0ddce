"""How long loading takes, against what the system needs to hand out as much memory.

    python benchmarks/loading.py --shape 7B --formats q4_0 --write docs

Weights are packed into memory of their own. A system that has to find that memory first (on a
virtual machine, page by page at the host) can be slower at it than the packing: so the first load
of a process that has waited for the host to take free memory back, a second one into memory that
the first gave back, and the mere touching of as many fresh bytes are timed. The file, just written,
is in the page cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from models import models, parser_of_models
from report import publish

MARK = "loading"
_SETTLE = 15.0  # seconds in which a host that takes free memory back has done so

LOAD = """
import json, sys, time
from llama_rt import Llama
seconds = []
for _ in range(2):
    start = time.perf_counter()
    llm = Llama.load(sys.argv[1], n_ctx=512, progress=False)
    seconds.append(time.perf_counter() - start)
    lines = open("/proc/self/status").read().splitlines()
    peak = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    weights = llm.memory()["weights"]
    llm.close()
    del llm
print(json.dumps({"first": seconds[0], "second": seconds[1], "peak": peak, "weights": weights}))
"""
TOUCH = """
import ctypes, mmap, sys, threading, time
count, threads = int(sys.argv[1]), int(sys.argv[2])
memory = mmap.mmap(-1, count)
memory.madvise(mmap.MADV_HUGEPAGE)
part = count // threads // mmap.PAGESIZE * mmap.PAGESIZE
populate = 23  # MADV_POPULATE_WRITE
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc = ctypes.CDLL(None)
def touch(i):
    libc.madvise(ctypes.c_void_p(address + i * part), ctypes.c_size_t(part), populate)
start = time.perf_counter()
workers = [threading.Thread(target=touch, args=(i,)) for i in range(threads)]
for worker in workers: worker.start()
for worker in workers: worker.join()
print(time.perf_counter() - start)
"""


def python(program: str, *arguments: str) -> str:
    """What a fresh interpreter prints, after the host had time to take free memory back."""
    time.sleep(_SETTLE)
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Loads, touches, prints the table."""
    parser = parser_of_models(__doc__, ["q4_0", "q8_0"])
    parser.add_argument("--threads", type=int, default=2, help="that touch memory")
    args = parser.parse_args()
    lines = [
        "| model | weights | first load | second load | touching as much | peak over weights |",
        "|---|---|---|---|---|---|",
    ]
    for format, model in models(args):
        taken = json.loads(python(LOAD, str(model)))
        weights = taken["weights"]
        touched = float(python(TOUCH, str(weights), str(args.threads)))
        lines.append(
            f"| {args.shape} {format} | {weights / 1e9:.2f} GB | {taken['first']:.2f} s | "
            f"{taken['second']:.2f} s | {touched:.2f} s | {taken['peak'] / weights - 1:+.1%} |"
        )
        print(lines[-1], flush=True)
    publish(lines, args.write, MARK)


if __name__ == "__main__":
    main()
