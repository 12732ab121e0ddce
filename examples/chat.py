"""A conversation through a prompt template; earlier turns are found in the cache.

python examples/chat.py [MODEL] [TEMPLATE]
"""

import sys

from llama_rt import Llama

model = sys.argv[1] if len(sys.argv) > 1 else None
template = sys.argv[2] if len(sys.argv) > 2 else None  # None: the model's own

with Llama.load(model, chat_template=template) as llm:
    messages = [{"role": "system", "content": "You answer in one sentence."}]
    for question in ("Who are you?", "And what can you do?"):
        messages.append({"role": "user", "content": question})
        answer = llm.chat(messages, max_tokens=32, temperature=0.0)
        messages.append({"role": "assistant", "content": answer.text})
        print(f"> {question}\n{answer.text}")
        print(f"[{answer.usage.cached_tokens} of {answer.usage.prompt_tokens} from the cache]")
