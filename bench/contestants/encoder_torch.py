"""A fine-tuning step by transformers and PyTorch: ``python … encoder_torch.py train 2 fused``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import BertConfig, BertModel

sys.path.insert(0, str(Path(__file__).parents[1]))
from work import CLASSES, DROPOUT, ENCODER, RATE, measure


class Classifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=ENCODER.vocabulary,
            hidden_size=ENCODER.d_model,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=4 * ENCODER.d_model,
            hidden_dropout_prob=DROPOUT,
            attention_probs_dropout_prob=DROPOUT,
            attn_implementation="sdpa",
        )
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.dropout, self.fc = torch.nn.Dropout(DROPOUT), torch.nn.Linear(384, CLASSES)

    def forward(self, ids):
        return self.fc(self.dropout(self.encoder(ids).last_hidden_state.mean(1)))


def main(what: str, threads: str, fused: str = "") -> None:
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    model = Classifier()
    adamw = torch.optim.AdamW(model.parameters(), lr=RATE, fused=bool(fused))

    def train(ids, targets):
        adamw.zero_grad()
        loss = F.cross_entropy(model(torch.from_numpy(ids)), torch.from_numpy(targets))
        loss.backward()
        adamw.step()
        return loss.item()

    def infer(ids, targets):
        with torch.inference_mode():
            logits = model(torch.from_numpy(ids))
            return F.cross_entropy(logits, torch.from_numpy(targets)).item()

    model.train(what == "train")
    measure({"train": train, "infer": infer}[what], "encoder")


main(*sys.argv[1:])
