"""Whether the CUDA room is built, and for what: `cmake/cuda.cmake`, with stand-ins for nvcc."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALL = "80-real;86-real;89-real;90-real;90-virtual"


def cmake(folder, *lines):
    """What a script prints that has the functions of `cuda.cmake`."""
    found = shutil.which("cmake")
    if found is None:
        pytest.skip("cmake is not on the path")
    script = folder / "script.cmake"
    script.write_text("\n".join([f"include({ROOT}/cmake/cuda.cmake)", *lines]))
    done = subprocess.run([found, "-P", script], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def compiler(folder, version, otherwise):
    """An nvcc that says its version and does something else when it is to compile."""
    path = folder / "nvcc"
    answer = f"echo 'Cuda compilation tools, release {version}'" if version else "true"
    path.write_text(f'#!/bin/sh\ncase "$*" in --version) {answer} ;; *) {otherwise} ;; esac\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("version", "otherwise", "reason"),
    [
        ("12.4, V12.4.99", "true", "nvcc 12.4 is too old, 12.8 or newer is needed"),
        (None, "true", "nvcc does not say its version"),
        (
            "13.0, V13.0.88",
            "echo 'In file included from x:'; echo 'x.h:9:2: #error -- unsupported GNU version!'"
            "; exit 1",
            "nvcc cannot compile here: x.h:9:2: #error -- unsupported GNU version!",
        ),
        ("13.0, V13.0.88", "exit 1", "nvcc cannot compile here"),
        ("13.0, V13.0.88", "true", "[]"),
    ],
    ids=["old", "silent", "host compiler", "broken", "good"],
)
def test_a_compiler_that_cannot_be_used_has_a_reason(tmp_path, version, otherwise, reason):
    path = compiler(tmp_path, version, otherwise)
    code, text = cmake(tmp_path, f"llama_rt_cuda_problem(why {path})", 'message("[${why}]")')
    assert code == 0
    assert reason in text


def test_no_compiler_is_a_reason(tmp_path):
    assert (
        "nvcc was not found"
        in cmake(tmp_path, 'llama_rt_cuda_problem(why "")', 'message("${why}")')[1]
    )


@pytest.mark.parametrize(
    ("capability", "architecture"),
    [("9.0", "90a-real"), ("8.6", "86-real"), ("7.5", ""), ("12.0", "90-virtual"), ("N/A", "")],
)
def test_a_device_names_its_architecture(tmp_path, monkeypatch, capability, architecture):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho {capability}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    _, text = cmake(tmp_path, "llama_rt_cuda_native(found)", 'message("[${found}]")')
    assert f"[{architecture}]" in text


@pytest.mark.parametrize(
    ("wanted", "device", "said"),
    [
        ("AUTO", "", "Without CUDA: there is no GPU"),
        ("AUTO", "8.6", "Without CUDA: nvcc was not found"),
        ("OFF", "8.6", "Without CUDA: it is switched off"),
        ("ON", "", "LLAMA_RT_CUDA=ON: nvcc was not found"),
    ],
)
def test_it_is_built_for_a_gpu_or_when_asked(tmp_path, monkeypatch, wanted, device, said):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho {device}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    lines = [
        "function(llama_rt_find_nvcc result)\nendfunction()",
        "function(target_sources)\nendfunction()",
        f"set(LLAMA_RT_CUDA {wanted})",
        "llama_rt_add_cuda(module)",
    ]
    assert said in cmake(tmp_path, *lines)[1]


def test_one_ptx_serves_ampere_and_ada(tmp_path):
    lines = [f'llama_rt_cuda_generate(options "{ALL}")', 'message("${options}")']
    assert cmake(tmp_path, *lines)[1].strip().split(";") == [
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
        "-gencode=arch=compute_80,code=[sm_80,sm_86,sm_89]",
    ]


def test_an_unknown_architecture_is_refused(tmp_path):
    code, text = cmake(tmp_path, 'llama_rt_cuda_generate(options "native")')
    assert code != 0
    assert "native is not like 90" in text
