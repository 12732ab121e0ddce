"""Many prompts as one batch: the weights are read once per step for all of them.

python examples/batch.py [MODEL]
"""

import sys

from llama_rt import Llama, SamplingParams

prompts = ["The king said", "In the forest there lived", "The old woman", "One morning"]

with Llama.load(sys.argv[1] if len(sys.argv) > 1 else None) as llm:
    params = SamplingParams(temperature=0.7, top_p=0.9, seed=1)
    for prompt, done in zip(
        prompts, llm.generate(prompts, max_tokens=24, params=params), strict=True
    ):
        print(f"{prompt}|{done.text!r} ({done.finish_reason})")
