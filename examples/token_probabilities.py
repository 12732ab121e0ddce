"""What the model expects of a sentence, token by token, as a notebook: each `# %%` is a cell.

python examples/token_probabilities.py     # writes token_probabilities.png if matplotlib is there
"""

# %% The model: the built-in one, or a path
import numpy as np

from llama_rt import Llama

llm = Llama.load()
text = "Once upon a time there was a poor woodcutter who lived in a forest with his telephone."

# %% The probability of every token of the vocabulary, at every place
ids = llm.tokenizer.encode(text)
logits = llm.logits(ids)[:-1]  # row i is what the model says after token i
shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
probabilities = shifted / shifted.sum(axis=1, keepdims=True)

# %% What came, and what would have been likeliest
came = probabilities[np.arange(len(ids) - 1), ids[1:]]
likeliest = probabilities.argmax(axis=1)
pieces = [llm.tokenizer.piece(token) for token in ids[1:]]
guesses = [llm.tokenizer.piece(int(token)) for token in likeliest]
for piece, p, guess, best in zip(pieces, came, guesses, probabilities.max(axis=1), strict=True):
    print(f"{piece:>12} {p:6.1%}   likeliest {guess!r} {best:.1%}")

# %% The picture
try:
    import matplotlib as mpl

    mpl.use("Agg")  # draws into a file; leave it out in a notebook
    import matplotlib.pyplot as plt
except ImportError:
    print("no picture: matplotlib is not installed")
else:
    figure, axes = plt.subplots(figsize=(7, 0.28 * len(pieces) + 1), layout="constrained")
    places = np.arange(len(pieces))
    axes.barh(places, probabilities.max(axis=1), color="0.85", label="the likeliest token")
    axes.barh(places, came, color="C0", label="the token that came")
    axes.set_yticks(places, pieces)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="probability")
    axes.margins(y=0.01)
    axes.legend(loc="lower right")
    figure.savefig("token_probabilities.png", dpi=120)
    print("wrote token_probabilities.png")
