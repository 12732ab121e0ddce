"""How sure the model is: of what it writes, and of a text that it is given.

python examples/logprobs.py [MODEL]
"""

import math
import sys

from llama_rt import Llama

with Llama.load(sys.argv[1] if len(sys.argv) > 1 else None) as llm:
    done = llm.generate("Once upon a", max_tokens=8, temperature=0.0, logprobs=3)
    for entry in done.logprobs or []:
        others = ", ".join(
            f"{llm.tokenizer.piece(token)!r} {math.exp(logprob):.0%}"
            for token, logprob in entry.top.items()
        )
        print(f"{entry.piece!r:>12} {math.exp(entry.logprob):6.1%}   of {others}")

    text = "The wolf ate the grandmother."
    ids = llm.tokenizer.encode(text)
    scores = llm.score(text)  # one for every token after the first
    for token, score in zip(ids[1:], scores, strict=True):
        bar = "#" * round(20 * math.exp(score))
        print(f"{llm.tokenizer.piece(token)!r:>12} {score:7.2f} {bar}")
    print(f"perplexity {math.exp(-scores.mean()):.1f}")
