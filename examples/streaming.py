"""Text as it is generated.

python examples/streaming.py [MODEL]
"""

import sys

from llama_rt import Llama

with Llama.load(sys.argv[1] if len(sys.argv) > 1 else None) as llm:
    prompt = "Once upon a time"
    print(prompt, end="", flush=True)
    with llm.stream(prompt, max_tokens=64, temperature=0.8, seed=7, stop=["\n\n"]) as stream:
        for chunk in stream:
            print(chunk.text, end="", flush=True)  # whole characters, never half of one
    done = stream.completion
    speed = done.timings.generation_tokens_per_second
    print(f"\n[{done.finish_reason}, {speed:.0f} tokens/s, seed {done.seed}]")
