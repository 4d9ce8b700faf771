"""PyTorch, eager: ``python bench/contestants/pytorch.py small train 2 sdpa [fused]``."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from work import CLASSES, DROPOUT, HEADS, RATE, SIZES, measure


class Attention(nn.Module):
    def __init__(self, d: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.w_q, self.w_k, self.w_v, self.fc_out = (nn.Linear(d, d) for _ in range(4))
        self.dropout, self.layer_norm = nn.Dropout(DROPOUT), nn.LayerNorm(d)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (
            w(x).view(b, t, HEADS, d // HEADS).transpose(1, 2)
            for w in (self.w_q, self.w_k, self.w_v)
        )
        if self.how == "sdpa":
            p = DROPOUT if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(d // HEADS)
            y = self.dropout(torch.softmax(scores, -1)) @ v
        y = y.transpose(1, 2).reshape(b, t, d)
        return self.layer_norm(x + self.dropout(self.fc_out(y)))


class Classifier(nn.Module):
    def __init__(self, vocabulary: int, d: int, how: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, d, padding_idx=0)
        self.rnn = nn.LSTM(d, d, batch_first=True)
        self.attention = Attention(d, how)
        self.dropout, self.fc = nn.Dropout(DROPOUT), nn.Linear(d, CLASSES)

    def forward(self, ids):
        x, _ = self.rnn(self.dropout(self.embedding(ids)))
        return self.fc(self.dropout(self.attention(x).mean(1)))


def main(name: str, what: str, threads: str, how: str, fused: str = "") -> None:
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    size = SIZES[name]
    model = Classifier(size.vocabulary, size.d_model, how)
    options = {"fused": True} if fused else {}
    adam = torch.optim.Adam(model.parameters(), lr=RATE, **options)

    def train(ids, targets):
        adam.zero_grad()
        loss = F.cross_entropy(model(torch.from_numpy(ids)), torch.from_numpy(targets))
        loss.backward()
        adam.step()
        return loss.item()

    def infer(ids, targets):
        with torch.inference_mode():
            logits = model(torch.from_numpy(ids))
            return F.cross_entropy(logits, torch.from_numpy(targets)).item()

    if what == "infer":
        model.eval()
    measure({"train": train, "infer": infer}[what], name)


if __name__ == "__main__":
    main(*sys.argv[1:])
