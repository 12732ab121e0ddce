"""Everything that a machine with a GPU is needed for, in one run of ten minutes.

    python benchmarks/gpu.py --golden ../shared/golden

Builds for that GPU, runs the device's tests and the golden cases, measures the limits (a read-only
reduction, torch's best dense product), the decode and prompt speeds that are held against them, a
compiled torch decode loop, and a profile of one decode step; prints one table. Each step runs in a
process of its own and is recorded as it ends: a run that is cut off goes on where it stopped.
`--only NAME` runs some steps, `--fresh` all of them again; `--tiny` walks the passes over a tiny
model on whatever device is found, to try this script.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "gpu"
RESULTS = FOLDER / "results.json"
ONE = {"pass": "decode"}
LONG = {"pass": "decode", "context": 8192}
MANY = {"pass": "decode", "context": 512, "batch": 64}
PROMPT = {"pass": "prefill", "tokens": 2048}
TINY = {"context": 70, "batch": 3, "tokens": 70}  # at most, of a tiny model

# Models and the passes over each, most telling first.
MODELS: dict[str, dict[str, dict[str, Any]]] = {
    "7B bf16": {
        "one": ONE, "prompt": PROMPT, "many": MANY, "many, 8-bit cache": MANY | {"kv": "q8_0"},
        "long": LONG,
    },
    "7B q4_0": {"one": ONE, "prompt": PROMPT},
    "7B q8_0": {"one": ONE},
    "13B bf16": {"one": ONE},
    "65B q4_0": {"one": ONE},
    "65B q8_0": {"one": ONE},
    "7B q4_k": {"one": ONE},
    "7B q6_k": {"one": ONE},
}  # fmt: skip
# Shares of the limit (bandwidth, or the dense product for prompts): at least, and hoped for.
GOALS = {
    ("7B bf16", "one"): (0.85, 0.93), ("7B q8_0", "one"): (0.78, 0.88),
    ("7B q4_0", "one"): (0.68, 0.80), ("13B bf16", "one"): (0.88, 0.94),
    ("65B q8_0", "one"): (0.85, 0.92), ("65B q4_0", "one"): (0.80, 0.88),
    ("7B bf16", "prompt"): (0.65, 0.80), ("7B q4_0", "prompt"): (0.55, 0.75),
    ("7B bf16", "many"): (0.65, 0.85), ("7B bf16", "many, 8-bit cache"): (0.65, 0.85),
    ("7B bf16", "long"): (0.80, 0.90),
}  # fmt: skip


def tiny_steps(golden: Path | None) -> dict[str, tuple[float, list[Any]]]:
    """What can be walked without a GPU."""
    plan: dict[str, tuple[float, list[Any]]] = {}
    if golden is not None:
        plan["golden"] = (120, ["golden", str(golden)])
    for name, jobs in MODELS.items():
        small = {
            job: {key: min(value, TINY[key]) if key in TINY else value for key, value in a.items()}
            for job, a in jobs.items()
        }
        plan[name] = (120, ["models", "tiny", name.split()[1], small])
    return plan


def steps(golden: Path | None) -> dict[str, tuple[float, list[Any]]]:
    """Seconds that each step may take, and its call."""
    plan: dict[str, tuple[float, list[Any]]] = {
        "build": (300, []),
        "tests": (200, []),
        "limits": (60, ["limits"]),
    }
    if golden is not None:
        plan["golden"] = (120, ["golden", str(golden)])
    for name, jobs in MODELS.items():
        shape, form = name.split()
        plan[name] = (90 if shape != "65B" else 150, ["models", shape, form, jobs])
    plan["torch decode"] = (150, ["torch_decode"])
    plan["profile 7B bf16"] = (90, ["profile", "7B", "bf16"])
    plan["profile 7B q4_0"] = (90, ["profile", "7B", "q4_0"])
    for tool in ("memcheck", "racecheck"):
        plan[tool] = (240, ["sanitize", tool])
    return plan


def build() -> dict[str, Any]:
    """Compiles for this machine's GPU and puts the module next to its Python files."""
    pybind = subprocess.check_output(
        [sys.executable, "-m", "pybind11", "--cmakedir"], text=True
    ).strip()
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(FOLDER / "cmake"), "-G", "Ninja",
        "-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_RT_CUDA=ON", f"-Dpybind11_DIR={pybind}",
        "-DLLAMA_RT_CUDA_ARCHITECTURES=90a-real", f"-DPython_EXECUTABLE={sys.executable}",
    ]  # fmt: skip
    began = time.perf_counter()
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(FOLDER / "cmake")], check=True)
    for module in (FOLDER / "cmake").glob("_native*.so"):
        shutil.copy(module, ROOT / "python" / "llama_rt" / module.name)
    return {"seconds": time.perf_counter() - began}


def tests() -> dict[str, Any]:
    """The tests that run on a device."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/device"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    sys.stdout.write(done.stdout[-6000:])
    return {"passed": done.returncode == 0, "summary": done.stdout.strip().splitlines()[-1]}


def run_step(args: argparse.Namespace, name: str, seconds: float) -> dict[str, Any]:
    """Runs one step in a process group of its own; what it found, or why it found nothing."""
    log, out = (FOLDER / f"{name.replace(' ', '-')}.{ending}" for ending in ("log", "json"))
    out.unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__)), "--step", name, "--results", str(out)]
    if args.golden is not None:
        command += ["--golden", str(args.golden.resolve())]
    if args.tiny:
        command.append("--tiny")
    paths = [os.environ.get("PYTHONPATH", ""), str(ROOT / "python"), str(ROOT / "tests")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    with log.open("w") as text:
        process = subprocess.Popen(
            command, stdout=text, stderr=subprocess.STDOUT, env=environment, cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started: it holds the GPU
            process.wait()
            return {"failed": f"not done after {seconds:.0f} s: {log.read_text().strip()[-800:]}"}
    if process.returncode or not out.is_file():
        return {"failed": log.read_text().strip()[-1500:] or f"exit code {process.returncode}"}
    figures: dict[str, Any] = json.loads(out.read_text())
    return figures


def do_step(args: argparse.Namespace) -> None:
    """In the step's own process: leaves its figures where the results are to be."""
    call = (tiny_steps if args.tiny else steps)(args.golden)[args.step][1]
    if call:
        import gpu_steps

        if args.tiny:
            gpu_steps.STEPS = 4
        figures = getattr(gpu_steps, call[0])(*call[1:])
    else:
        figures = {"build": build, "tests": tests}[args.step]()
    args.results.write_text(json.dumps(figures))


def table(results: dict[str, Any]) -> list[str]:
    """The rows: what, measured, share of the limit, goals."""
    limits = results.get("limits", {})
    read, multiply = limits.get("read_bytes_s"), limits.get("multiply_s")
    rows = [f"{'what':<34}{'tok/s':>10}{'of limit':>10}{'at least':>10}{'stretch':>9}"]
    if read:
        rows.insert(0, f"{limits['device']}: reads {read / 1e12:.2f} TB/s, torch multiplies "
                       f"{2 * multiply / 1e12:.0f} TFLOP/s")  # fmt: skip
    for model, jobs in MODELS.items():
        for job in jobs:
            figures = results.get(model, {}).get(job)
            if not figures:
                continue
            speed = statistics.median(figures["tok_s"])
            share = None
            if job == "prompt" and multiply:
                share = speed * figures["multiplications"] / multiply
            elif job != "prompt" and read:
                per_step = figures["streamed"] + figures["kv_bytes"]
                share = speed / figures["batch"] * per_step / read
            least, stretch = GOALS.get((model, job), (None, None))
            verdict = "" if None in (share, least) else "  ok" if share >= least else "  MISSED"
            cells = [f"{x:.0%}" if x is not None else "-" for x in (share, least, stretch)]
            rows.append(f"{model + ', ' + job:<34}{speed:>10.1f}{cells[0]:>10}{cells[1]:>10}"
                        f"{cells[2]:>9}{verdict}")  # fmt: skip
    return rows + _peers(results) + _checks(results)


def _peers(results: dict[str, Any]) -> list[str]:
    peer = results.get("torch decode", {}).get("tok_s")
    own = results.get("7B bf16", {}).get("one", {}).get("tok_s")
    if not peer or not own:
        return []
    ratio = statistics.median(own) / statistics.median(peer)
    return [f"7B bf16 against a compiled torch loop ({statistics.median(peer):.1f} tok/s): "
            f"{ratio:.2f}x (at least 1.3x, stretch 2x)"]  # fmt: skip


def _checks(results: dict[str, Any]) -> list[str]:
    rows = []
    for name in ("tests", "memcheck", "racecheck"):
        if "summary" in results.get(name, {}):
            rows.append(f"{name}: {results[name]['summary']}")
    errors = results.get("golden", {}).get("errors", {})
    if errors:
        bad = [f"{n} {e:.1e} > {b:.0e}" for n, (e, b) in errors.items() if not e <= b]
        rows.append(f"golden cases: {len(errors) - len(bad)} of {len(errors)} within bounds"
                    + "".join(f"; {b}" for b in bad))  # fmt: skip
    for name, figures in results.items():
        if "failed" in figures:
            rows.append(f"{name}: FAILED: {figures['failed'][-400:]}")
        for kernel, us, count in figures.get("kernels", []):
            rows.append(f"  {name}: {us:9.1f} us {count:7.1f}x  {kernel}")
    return rows


def main() -> int:
    """Runs what is not done yet, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", type=Path, help="folder of golden cases")
    parser.add_argument("--budget", type=float, default=570, help="seconds for all steps together")
    parser.add_argument("--only", action="append", help="run this step (again); may be repeated")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where they are kept")
    parser.add_argument("--tiny", action="store_true", help="only walk over a tiny model")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        do_step(args)
        return 0
    began = time.monotonic()
    FOLDER.mkdir(parents=True, exist_ok=True)
    kept = args.results.is_file() and not args.fresh
    results: dict[str, Any] = json.loads(args.results.read_text()) if kept else {}
    for name, (seconds, _) in (tiny_steps if args.tiny else steps)(args.golden).items():
        done = "failed" not in results.get(name, {"failed": ""})
        if name == "build":  # results may outlive the machine that they were measured on
            done = done and any((ROOT / "python" / "llama_rt").glob("_native*.so"))
        if name not in args.only if args.only else done:
            continue
        left = args.budget - (time.monotonic() - began)
        if left < 20:
            print(f"{name}: left for the next run")
            continue
        results[name] = run_step(args, name, min(seconds, left))
        args.results.write_text(json.dumps(results, indent=1))
        state = "failed" if "failed" in results[name] else "done"
        print(f"{time.monotonic() - began:6.1f} s  {name}: {state}", flush=True)
    print("\n".join(table(results)))
    return int(any("failed" in figures for figures in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())
