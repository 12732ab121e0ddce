"""The model against transformers, Muon against an SVD, a run against its own resumption."""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from export_tales import mean_model, write_folder
from muon import Muon, orthogonalise
from tales_model import TalesConfig, TalesModel, load_model
from torch.nn.utils import parameters_to_vector
from train_tales import SIZES, Progress, Run, train

TINY = TalesConfig(32, 2, 4, 2, 64, vocab_size=50, max_position_embeddings=128)


def shaken(config):
    torch.manual_seed(0)
    model = TalesModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.mark.parametrize("tied", [True, False])
def test_exported_folder_gives_the_same_logits_in_transformers(tmp_path, tied):
    transformers = pytest.importorskip("transformers")
    model = shaken(dataclasses.replace(TINY, tie_word_embeddings=tied))
    (tmp_path / "tokenizer.model").write_bytes(b"unused here")
    write_folder(model, tmp_path / "tokenizer.model", tmp_path / "hf", 128)
    other = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    ids = torch.randint(0, 50, (2, 90), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), other.eval()(ids).logits, atol=1e-4, rtol=1e-4)


def test_orthogonalised_matrix_keeps_its_singular_vectors():
    torch.manual_seed(0)
    for shape in ((3, 16, 40), (3, 40, 16)):
        x = torch.randn(shape)
        out = orthogonalise(x)
        assert out.shape == x.shape
        values = torch.linalg.svdvals(out)
        assert values.min() > 0.5
        assert values.max() < 1.3
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        nearest = u @ v
        cosine = (out * nearest).sum((1, 2)) / (out.norm(dim=(1, 2)) * nearest.norm(dim=(1, 2)))
        assert cosine.min() > 0.95


def test_muon_solves_a_least_squares_problem():
    torch.manual_seed(0)
    target = torch.randn(8, 8)
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    assert (weight - target).square().mean() < 0.01 * target.square().mean()


def test_rate_warms_up_stays_and_cools_to_zero():
    assert [Progress(step=s).rate() for s in (0, 99)] == pytest.approx([0.01, 1])
    assert Progress(step=200, cooldown_from=200, cooldown_steps=50).rate() == 1
    assert Progress(step=5000).rate() == 1
    assert Progress(step=225, cooldown_from=200, cooldown_steps=50).rate() == pytest.approx(0.5)
    end = Progress(step=250, cooldown_from=200, cooldown_steps=50)
    assert end.rate() == 0
    assert end.done()


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "test", TINY)
    rng = np.random.default_rng(0)
    starts = np.cumsum([0, *[40] * 30])
    ids = np.tile(rng.integers(3, 50, size=40), 30).astype(np.uint16)
    for name in ("train", "heldout"):
        np.savez(tmp_path / f"{name}.npz", ids=ids, starts=starts, characters=3600)

    def make(out, **changes):
        values = {
            "data": tmp_path, "out": tmp_path / out, "size": "test", "seed": 1,
            "resume_from": None, "weights": None, "minutes": 0, "steps": 20, "flops": 0,
            "cooldown_file": None,
            "cooldown_fraction": 0.25, "cooldown_steps": 0, "pause_file": None,
            "batch_tokens": 64, "context": 16, "long_context": 64, "long_share": 0.5,
            "whole_tales": 1, "muon_lr": 0.02,
            "adam_lr": 0.004, "weight_decay": 0.02, "dropout": 0.0, "device": "cpu",
            "threads": 1, "workers": 1, "bf16": False, "compile": False,
            "eval_steps": 5, "save_minutes": 60,
        }  # fmt: skip
        return argparse.Namespace(**values | changes)

    return make


def test_run_learns_cools_down_and_resumes_to_the_same_weights(options, tmp_path):
    Run(options("whole")).train()
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < losses[0]
    assert log[-1]["event"] == "end"
    assert log[-1]["step"] == 20
    assert log[-1]["context"] == 64

    cooldown, longer = [line["step"] for line in log if line.get("event", "start") != "start"][:2]
    assert (cooldown, longer) == (16, 18)
    half = Run(options("half"))
    for _ in range(7):
        half.train_step()
    half.save("last.pt")
    Run(options("half")).train()
    whole, resumed = (load_model(Path(tmp_path, name, "final.pt")) for name in ("whole", "half"))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_workers_share_a_step(options, tmp_path):
    Run(options("start")).save("start.pt")
    changes = {"batch_tokens": 128, "steps": 4, "context": 16, "long_context": 32}
    for name, workers in (("alone", 1), ("together", 2)):
        start = tmp_path / "start" / "start.pt"
        train(options(name, workers=workers, resume_from=start, **changes))
    files = ("start/start.pt", "alone/final.pt", "together/final.pt")
    start, alone, together = (
        parameters_to_vector(load_model(tmp_path / file).parameters()).detach() for file in files
    )
    assert (together - alone).norm() < 1e-4 * (alone - start).norm()


def test_run_begins_with_given_weights(options, tmp_path):
    first = Run(options("first"))
    (tmp_path / "tokenizer.model").write_bytes(b"unused here")
    write_folder(first.model, tmp_path / "tokenizer.model", tmp_path / "hf", 32)
    second = Run(options("second", seed=2, weights=tmp_path / "hf"))
    assert second.at.step == 0
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    other = Run(options("other", seed=2))
    pairs = zip(first.model.parameters(), other.model.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_mean_of_checkpoints_is_that_of_every_weight(tmp_path):
    models = [TalesModel(TINY), shaken(TINY)]
    for i, model in enumerate(models):
        state = {"config": dataclasses.asdict(TINY), "model": model.state_dict()}
        torch.save(state, tmp_path / f"{i}.pt")
    mean = mean_model([tmp_path / "0.pt", tmp_path / "1.pt"])
    for a, b, c in zip(*(m.parameters() for m in (*models, mean)), strict=True):
        torch.testing.assert_close(c, (a + b) / 2)
