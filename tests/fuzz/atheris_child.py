"""atheris on one target, in a process of its own: NAME INPUTS SEED FOLDER.

It looks at which lines and comparisons of the package an input reaches, and breaks those inputs
further that reached something new. Half of the breaking is ours, which knows the formats.
"""

import os
import random
import sys

import atheris

with atheris.instrument_imports(include=["tinygrad_mha"]):
    from .engines import Notes
    from .mutations import LARGEST, mutated
    from .places import target_called
    from .verdict import Failure, judge, limited


def main(name: str, count: str, seed: str, folder: str) -> None:
    notes, most = Notes(f"{folder}/notes"), int(count)
    corpus = f"{folder}/corpus"
    os.mkdir(corpus)
    with target_called(name) as target:
        for k, data in enumerate(target.seeds):
            with open(f"{corpus}/{k}", "wb") as file:
                file.write(data)
        inputs = results = 0

        def one(data: bytes) -> None:
            nonlocal inputs, results
            inputs += 1
            notes.write(inputs, results, data)
            try:
                results += judge(target, data) == "result"
            except Failure as e:
                print(e, flush=True)
                os._exit(1)
            notes.write(inputs, results, data)

        def other(data: bytes, largest: int, random_seed: int) -> bytes:
            rng = random.Random(random_seed)
            if rng.random() < 0.5:
                return mutated(bytes(data), target.kind, rng, target.seeds)[:largest]
            return atheris.Mutate(data, largest)

        options = [f"-runs={most}", f"-seed={int(seed) + 1}", f"-max_len={LARGEST}"]
        options += ["-rss_limit_mb=4096", "-timeout=60", f"-artifact_prefix={folder}/"]
        atheris.Setup(["fuzz", corpus, *options], one, custom_mutator=other)
        with limited():
            atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
