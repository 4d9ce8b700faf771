"""Hostile files: every reader is given files that were broken on purpose, many thousands of them.

    python -m tests.fuzz                          every target, 10,000 inputs each
    python -m tests.fuzz --target csv --inputs 100000 --seed 7
    python -m tests.fuzz --engine atheris         led by which code an input reaches: extra `fuzz`

A target is a function of bytes. It passes if it returns or refuses in one clear line; any other
exception, a warning, more than some seconds or some hundred megabytes are a failure: the input is
written to a file, its path is printed, and the exit status is 1.

Bytes drawn at random never get past a file's first check. So there are good files (seeds), and
mutations that know what they are looking at: mutations.py. What is asked of whom is in targets.py
and pages.py, what counts as an answer in verdict.py, how inputs are chosen in engines.py.
"""
