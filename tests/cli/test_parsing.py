"""The grammar: what is understood, what is suggested, what is refused."""

from __future__ import annotations

import pytest

from llama_rt.cli.options import UsageError
from llama_rt.cli.parser import build_parser

COMMANDS = ("run", "chat", "info", "convert", "bench", "perplexity", "doctor")
REQUIRED = {
    "info": ["m"],
    "convert": ["a", "b", "--format", "f16"],
    "perplexity": ["file"],
}


def parse(*words: str):
    return build_parser().parse(words)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_json_and_debug(command: str) -> None:
    args = parse(command, *REQUIRED.get(command, []), "--json", "--debug")
    assert args.json
    assert args.debug


@pytest.mark.parametrize("command", ["run", "chat"])
def test_options_of_loading_and_sampling_are_there(command: str) -> None:
    words = (
        "-m model --device cpu --quantize q8_0 --ctx 64 --kv-dtype f32 --threads 2 --isa avx2 "
        "--base b --adapter one=x --adapter two=y --template vicuna --temperature 0.5 --top-k 3 "
        "--top-p 0.9 --min-p 0.1 --typical-p 0.8 --repetition-penalty 1.1 --presence-penalty 0.2 "
        "--frequency-penalty 0.3 --logit-bias 7=-100 --seed 0 --max-tokens 5 --stop a --stop b"
    )
    args = parse(command, *words.split())
    assert (args.model, args.quantize, args.ctx, args.kv_dtype) == ("model", "q8_0", 64, "f32")
    assert (args.device, args.threads, args.isa, args.base) == ("cpu", 2, "avx2", "b")
    assert (args.adapter, args.template) == (["one=x", "two=y"], "vicuna")
    assert (args.temperature, args.top_k, args.top_p, args.min_p) == (0.5, 3, 0.9, 0.1)
    assert (args.typical_p, args.repetition_penalty) == (0.8, 1.1)
    assert (args.presence_penalty, args.frequency_penalty) == (0.2, 0.3)
    assert (args.logit_bias, args.seed, args.max_tokens) == ([(7, -100.0)], 0, 5)
    assert args.stop == ["a", "b"]


def test_what_is_not_given_is_left_to_the_library() -> None:
    args = vars(parse("run", "hello"))
    options = ("temperature", "top_k", "top_p", "seed", "ctx", "threads", "device", "max_tokens")
    assert [args[name] for name in options] == [None] * len(options)


def test_bench_defaults() -> None:
    args = parse("bench", "--shape", "7B")
    measured = (args.prompt, args.generate, args.context, args.batch, args.repeat)
    assert measured == (512, 64, 0, 1, 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--temprature", "1"], "--temperature"),
        (["run", "--top_k=3"], "--top-k"),
        (["bench", "--shap", "7B"], "--shape"),
        (["rnu"], "run"),
        (["perplexty", "x"], "perplexity"),
        (["run", "--threads", "0"], "--threads"),
        (["run", "--max-tokens", "-3"], "--max-tokens"),
        (["run", "--logit-bias", "7:1"], "ID=BIAS"),
        (["run", "--repack", "alway"], "always"),
        ([], "which command"),
        (["perplexity"], "FILE"),
        (["convert", "a", "b"], "--format"),
        (["doctor", "extra"], "extra"),
    ],
)
def test_mistakes_are_answered_with_what_was_meant(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*words)
    message = str(caught.value)
    assert said in message
    assert "--help" in message
    assert "\n" not in message


def test_options_are_not_abbreviated() -> None:
    with pytest.raises(UsageError, match="unknown option --temper"):
        parse("run", "--temper", "1")


def test_the_published_options_of_bench_are_there() -> None:
    words = (
        "--shape 8x4096 --format q8_0 --prompt 1 --generate 2 --context 3 --batch 4 --repeat 5 "
        "--lora-rank 6 --llama-adapter 10 --profile --save made.gguf --json"
    )
    args = parse("bench", *words.split())
    measured = (args.prompt, args.generate, args.context, args.batch, args.repeat)
    assert measured == (1, 2, 3, 4, 5)
    assert (args.shape, args.format) == ("8x4096", "q8_0")
    assert (args.lora_rank, args.llama_adapter) == (6, 10)
    assert args.profile
    assert str(args.save) == "made.gguf"
