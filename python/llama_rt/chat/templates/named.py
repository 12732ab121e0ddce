"""The prompt formats of the LLaMA family, byte for byte, as data.

Each row names where its text comes from. Texts are the projects' own; see `formats.py` for what the
fields mean. Where a project knew single questions only, later turns follow llama.cpp's instruct
mode: the next block after an empty line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from llama_rt.chat.templates.prompt_format import Format, Mark, Pieces, Token

__all__ = ["ALIASES", "FORMATS"]

BOS, EOS, SPLIT = Mark.BOS, Mark.EOS, Mark.SPLIT
_EXAMPLES = json.loads(Path(__file__).with_name("vicuna_examples.json").read_text("utf-8"))


def _header(role: str) -> Pieces:
    """Start of a Llama 3 message; Meta's code tokenises each part on its own."""
    start, end = Token("<|start_header_id|>"), Token("<|end_header_id|>")
    return (start, role, end, "\n\n", SPLIT)


_EOT = Token("<|eot_id|>")

_LLAMA = [
    Format(
        name="llama-2",
        about="Llama 2 chat (meta-llama/llama, llama/generation.py)",
        begin=(),
        user=(BOS, "[INST] {user}"),
        cue=(" [/INST]",),
        assistant=(" {assistant} ", EOS),
        fold_system="<<SYS>>\n{system}\n<</SYS>>\n\n{user}",
        strip_user=None,
        strip_assistant=None,
        forbidden=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
        sampling={"temperature": 0.6, "top_p": 0.9},
    ),
    Format(
        name="llama-3",
        about="Llama 3 and 3.1 instruct (meta-llama/llama3, llama/tokenizer.py)",
        system_part=(*_header("system"), "{system}", _EOT),
        user=(*_header("user"), "{user}", _EOT),
        cue=_header("assistant"),
        assistant=("{assistant}", _EOT),
        strip_user=None,
        strip_assistant=None,
        any_order=True,
        sampling={"temperature": 0.6, "top_p": 0.9},
    ),
]

_TASK = "Below is an instruction that describes a task"
_INPUT = ", paired with an input that provides further context"
_WRITE = ". Write a response that appropriately completes the request."

_ALPACA = Format(
    name="alpaca",
    about="Stanford Alpaca (tatsu-lab/stanford_alpaca, train.py)",
    system_part=("{system}\n\n",),
    user=("### Instruction:\n{user}\n\n",),
    with_input=("### Instruction:\n{user}\n\n### Input:\n{input}\n\n",),
    next_user=("\n\n### Instruction:\n{user}\n\n",),
    next_with_input=("\n\n### Instruction:\n{user}\n\n### Input:\n{input}\n\n",),
    cue=("### Response:",),
    assistant=("{assistant}",),
    system=_TASK + _WRITE,
    system_with_input=_TASK + _INPUT + _WRITE,
    sampling={"temperature": 0.7, "top_p": 0.9, "top_k": 50},
    max_tokens=600,
)

_ALPACA_LORA = replace(
    _ALPACA,
    name="alpaca-lora",
    about="Alpaca-LoRA (tloen/alpaca-lora, templates/alpaca.json); the demo ran 4 greedy beams",
    cue=("### Response:\n",),
    strip_assistant=None,
    stop=("### Response:",),
    sampling={"temperature": 0.0},
    max_tokens=128,
)

_NOQA = "  # noqa: E501"
_DOCTOR = (
    "If you are a doctor, please answer the medical questions based on the patient's description."
)
_INDENT = " " * 16
_DOCTOR_SAMPLING = {
    "temperature": 0.5,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.1,
}

_ALPACA_LIKE = [
    _ALPACA,
    _ALPACA_LORA,
    replace(
        _ALPACA_LORA,
        name="alpaca-lora-noqa",
        about="Alpaca-LoRA of 2023-03-27 to 29, with a stray comment in the prompt",
        system=_TASK + _WRITE + _NOQA,
        system_with_input=_TASK + _INPUT + _WRITE + _NOQA,
    ),
    replace(
        _ALPACA_LORA,
        name="alpaca-short",
        about="Alpaca-LoRA (templates/alpaca_short.json): without the first paragraph",
        system_part=None,
        system="",
        system_with_input=None,
    ),
    replace(
        _ALPACA,
        name="llama-adapter",
        about="LLaMA-Adapter V1 and the multimodal V2 (OpenGVLab/LLaMA-Adapter, example.py)",
        sampling={"temperature": 0.1, "top_p": 0.75},
        max_tokens=512,
    ),
    replace(
        _ALPACA,
        name="chatdoctor-train",
        about="ChatDoctor's full training (Kent0n-Li/ChatDoctor, train.py)",
        instruction=_DOCTOR,
        sampling=_DOCTOR_SAMPLING,
        max_tokens=200,
    ),
    Format(
        name="chatdoctor-lora",
        about="ChatDoctor's LoRA trainer (train_lora.py), which indents its template",
        system_part=("{system}\n\n",),
        user=(f"{_INDENT}### Instruction:\n{_INDENT}{{user}}\n{_INDENT}\n",),
        with_input=(
            f"{_INDENT}### Instruction:\n{_INDENT}{{user}}\n{_INDENT}\n"
            f"{_INDENT}### Input:\n{_INDENT}{{input}}\n{_INDENT}\n",
        ),
        next_user=(f"\n\n{_INDENT}### Instruction:\n{_INDENT}{{user}}\n{_INDENT}\n",),
        next_with_input=(
            f"\n\n{_INDENT}### Instruction:\n{_INDENT}{{user}}\n{_INDENT}\n"
            f"{_INDENT}### Input:\n{_INDENT}{{input}}\n{_INDENT}\n",
        ),
        cue=(f"{_INDENT}### Response:\n{_INDENT}",),
        assistant=("{assistant}",),
        system=_TASK + _WRITE + "  ",
        system_with_input=_TASK + _INPUT + _WRITE + " ",
        instruction=_DOCTOR,
        sampling=_DOCTOR_SAMPLING,
        max_tokens=200,
    ),
]

_CHATDOCTOR = Format(
    name="chatdoctor",
    about="ChatDoctor's chat (Kent0n-Li/ChatDoctor, chat.py)",
    system_part=("{system} \n\n",),
    opening=("ChatDoctor: I am ChatDoctor, what medical questions do you have?",),
    user=("\n\nPatient: {user}",),
    cue=("\n\nChatDoctor: ",),
    assistant=("{assistant}",),
    system=_DOCTOR,
    stop=("Patient: ",),
    sampling=_DOCTOR_SAMPLING,
    max_tokens=200,
)

_VICUNA = Format(
    name="vicuna-v1.1",
    about="Vicuna 1.1, 1.3 and 1.5 (lm-sys/FastChat, conversation.py: vicuna_v1.1)",
    system_part=("{system} ",),
    user=("USER: {user} ",),
    cue=("ASSISTANT:",),
    assistant=(" {assistant}", EOS),
    system="A chat between a curious user and an artificial intelligence assistant. The assistant "
    "gives helpful, detailed, and polite answers to the user's questions.",
    strip_assistant=None,
    sampling={"temperature": 0.7, "top_p": 1.0},
    max_tokens=512,
)

_VICUNA_0 = Format(
    name="vicuna-v0-zero-shot",
    about="Vicuna v0 as FastChat serves it since 0.2.4 (conversation.py: zero_shot)",
    system_part=("{system}",),
    user=("\n### Human: {user}",),
    cue=("\n### Assistant:",),
    assistant=(" {assistant}",),
    system="A chat between a curious human and an artificial intelligence assistant. The assistant "
    "gives helpful, detailed, and polite answers to the human's questions.",
    strip_assistant=None,
    stop=("###",),
    sampling={"temperature": 0.7, "top_p": 1.0},
    max_tokens=512,
)

_VICUNA_0_2 = replace(
    _VICUNA_0,
    name="vicuna-v0-fschat-0.2-zero-shot",
    about="Vicuna v0 as FastChat 0.2.0 to 0.2.3 served it, without the example turn",
    user=("### Human: {user}",),
    cue=("### Assistant:",),
)

_VICUNA_0_1 = replace(
    _VICUNA_0,
    name="vicuna-v0-fschat-0.1-zero-shot",
    about="Vicuna v0 as FastChat 0.1.x served it, without the example turn",
    user=("###Human: {user}",),
    cue=("###Assistant:",),
)


def _example(name: str, *, newline: bool = True) -> tuple[str, str]:
    turn = _EXAMPLES[name]
    answer: str = turn["assistant"]
    return turn["human"], answer if newline else answer.removesuffix("\n")


_VICUNAS = [
    _VICUNA,
    replace(
        _VICUNA_0,
        name="vicuna-v0",
        about="Vicuna v0 as FastChat serves it since 0.2.4 (conversation.py: one_shot)",
        example=_example("birthday"),
    ),
    _VICUNA_0,
    replace(
        _VICUNA_0,
        name="vicuna-v0-renewable",
        about="Vicuna v0 as FastChat served it from 2023-04-29 to 2023-05-28",
        example=_example("renewable_0_1", newline=False),
    ),
    replace(
        _VICUNA_0_2,
        name="vicuna-v0-fschat-0.2",
        about="Vicuna v0 as FastChat 0.2.0 to 0.2.3 served it",
        example=_example("renewable_0_1", newline=False),
    ),
    _VICUNA_0_2,
    replace(
        _VICUNA_0_1,
        name="vicuna-v0-fschat-0.1",
        about="Vicuna v0 as FastChat 0.1.x served it",
        example=_example("renewable_0_1"),
    ),
    _VICUNA_0_1,
    replace(
        _VICUNA_0,
        name="vicuna-v0-train",
        about="Vicuna v0's training text (FastChat, fastchat/train/train.py until 2023-04-12)",
        system_part=("{system}\n\n",),
        user=("### Human: {user}\n",),
        cue=("### Assistant:",),
        assistant=(" {assistant}\n",),
    ),
    replace(
        _VICUNA_0_1,
        name="llama-adapter-v2",
        about="LLaMA-Adapter V2 chat65B (llama_adapter_v2_chat65b/chat_demo.py)",
        example=_example("renewable_0_1"),
        sampling={"temperature": 0.7, "top_p": 0.95},
    ),
]

_KOALA = Format(
    name="koala",
    about="Koala (young-geng/EasyLM, docs/koala.md); fields tokenised apart as in training",
    begin=(BOS, "BEGINNING OF CONVERSATION: "),
    user=("USER: {user} ",),
    cue=("GPT:", SPLIT),
    assistant=("{assistant}", EOS),
    sampling={"temperature": 1.0, "top_k": 50, "top_p": 1.0},
    max_tokens=1024,
)

_BAIZE = Format(
    name="baize",
    about="Baize v1 and v2 (project-baize/baize-chatbot, demo/app_modules/utils.py)",
    system_part=("{system}",),
    user=("\n[|Human|]{user}",),
    cue=("\n[|AI|]",),
    assistant=("{assistant}",),
    system="The following is a conversation between a human and an AI assistant named Baize (named "
    "after a mythical creature in Chinese folklore). Baize is an open-source AI assistant "
    "developed by UCSD and Sun Yat-Sen University. The human and the AI assistant take turns "
    "chatting. Human statements start with [|Human|] and AI assistant statements start with "
    "[|AI|]. The AI assistant always provides responses in as much detail as possible, and in "
    "Markdown format. The AI assistant always declines to engage with topics, questions and "
    "instructions related to unethical, controversial, or sensitive issues. Complete the "
    "transcript in exactly that format.\n[|Human|]Hello!\n[|AI|]Hi!",
    strip_assistant=" ",
    stop=("[|Human|]", "[|AI|]"),
    sampling={"temperature": 1.0, "top_p": 0.95},
    max_tokens=512,
)

_GPT4ALL = [
    Format(
        name="gpt4all",
        about="GPT4All of March 2023, the form it was trained on (nomic-ai/gpt4all, data.py)",
        begin=(),
        user=(BOS, "{user}", SPLIT, "\n", SPLIT),
        cue=(),
        assistant=("{assistant}", EOS),
        sampling={"temperature": 0.0},
        max_tokens=512,
    ),
    Format(
        name="gpt4all-generate",
        about="GPT4All of March 2023, the raw prompt of generate.py",
        user=("{user}",),
        cue=(),
        assistant=("{assistant}",),
        sampling={"temperature": 0.0},
        max_tokens=512,
    ),
    Format(
        name="gpt4all-chat",
        about="GPT4All's chat program (zanussbaum/gpt4all.cpp, chat.cpp), its own tokenizer too",
        system_part=("{system}\n\n", SPLIT),
        system=" " + _TASK + _WRITE,
        user=(BOS, "### Instruction:\n\n", SPLIT, "{user}\n", SPLIT),
        cue=("### Response:\n\n", SPLIT),
        assistant=("{assistant}", EOS),
        longest_match=True,
        sampling={
            "temperature": 0.1,
            "top_k": 40,
            "top_p": 0.95,
            "repetition_penalty": 1.3,
        },
    ),
]

_PLAIN = Format(
    name="plain",
    about="No template: the texts one after the other, for base models",
    user=("{user}",),
    cue=(),
    assistant=("{assistant}",),
)

FORMATS: Mapping[str, Format] = {
    row.name: row
    for row in [
        *_LLAMA,
        *_ALPACA_LIKE,
        *_VICUNAS,
        _KOALA,
        _BAIZE,
        *_GPT4ALL,
        _CHATDOCTOR,
        _PLAIN,
    ]
}

ALIASES: Mapping[str, str] = {
    "llama-3.1": "llama-3",
    "llama-3.2": "llama-3",
    "llama-3.3": "llama-3",
    "llama2": "llama-2",
    "llama3": "llama-3",
    "vicuna": "vicuna-v1.1",
    "vicuna-v1.3": "vicuna-v1.1",
    "vicuna-v1.5": "vicuna-v1.1",
    "vicuna-v0-one-shot": "vicuna-v0",
    "alpaca-lora-legacy": "alpaca",
}
