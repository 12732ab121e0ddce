"""A model inside somebody's program: how the process ends, forks and is interrupted."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest


def run(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_a_program_may_end_with_a_stream_open(tiny_hf_folder):
    done = run(
        """
        import sys
        from llama_rt import Llama
        llm = Llama.load(sys.argv[1], threads=1)
        streams = [llm.stream([1, 2, 3 + i], temperature=2.0) for i in range(8)]
        next(streams[0])
        print("end")
        """,
        tiny_hf_folder,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_threads_that_outlive_the_main_one_get_their_text(tiny_hf_folder):
    done = run(
        """
        import sys, threading, time
        from llama_rt import Llama
        llm = Llama.load(sys.argv[1], threads=1)
        def work():
            time.sleep(0.2)
            print(len(llm.generate("a", max_tokens=50, logit_bias={2: -1e9}).tokens))
        threading.Thread(target=work).start()
        """,
        tiny_hf_folder,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "50\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_may_generate(tiny_hf_folder):
    done = run(
        """
        import os, sys
        from llama_rt import Llama
        llm = Llama.load(sys.argv[1], threads=2)
        expected = llm.generate("a", max_tokens=10, seed=1).tokens
        child = os.fork()
        if child == 0:
            os._exit(0 if llm.generate("a", max_tokens=10, seed=1).tokens == expected else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
        tiny_hf_folder,
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_ctrl_c_ends_a_program(tiny_hf_folder):
    code = """
        import sys
        from llama_rt import Llama
        llm = Llama.load(sys.argv[1], threads=1)
        print("ready", flush=True)
        while True:
            llm.generate("a", temperature=2.0)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tiny_hf_folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert said.rstrip().endswith("KeyboardInterrupt")
