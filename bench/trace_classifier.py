"""A small text classifier for the explorer to watch.

    tinygrad-mha trace bench/trace_classifier.py      # writes trace.html

Thirty training steps on eight sentences. The page walks through the first backward pass call by
call; its other views show the LSTM's gradients over time, the attention of each head, and how the
gradients of all parameters move over the steps.
"""

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha.models import TextClassifier
from tinygrad_mha.models.text import Vocabulary, pad_batch

FINE = ["a fine day by the sea", "sunny and warm all day", "a warm sea and a fine breeze"]
BAD = ["rain again and a cold wind", "cold fog all morning", "nothing but rain and wind all week"]
SO_SO = ["sun and rain by turns", "a fine morning and then rain"]


def main() -> None:
    tokens = [text.split() for text in (*FINE, *BAD, *SO_SO)]
    targets = np.repeat([0, 1, 2], [len(FINE), len(BAD), len(SO_SO)])
    vocabulary = Vocabulary.build(tokens)
    ids, lengths = pad_batch([vocabulary.encode(words) for words in tokens])
    tg.manual_seed(0)
    model = TextClassifier(len(vocabulary), d_model=16, num_classes=3, h=4, bidirectional=True)
    optimizer = tg.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(30):
        loss = tg.cross_entropy(model(ids, lengths), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == 29:
            print(f"step {step + 1}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
