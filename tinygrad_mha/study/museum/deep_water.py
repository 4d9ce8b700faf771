"""Deep water: a walk that recurses once for each node of a chain."""

import sys

from .exhibit import Exhibit
from .graph import PLAY, Node, program
from .judging import Failed

LIMIT = sys.getrecursionlimit()  # before anybody's file was run


def broken():
    def oldest_first(root):
        """Every node behind root, root too, each once and after its .inputs."""
        order, seen = [], set()

        def visit(node):
            if node not in seen:
                seen.add(node)
                for x in node.inputs:
                    visit(x)
                order.append(node)

        visit(root)
        return order

    return oldest_first


def solution():
    def oldest_first(root):
        """Every node behind root, root too, each once and after its .inputs."""
        order, seen, stack = [], set(), [(root, False)]
        while stack:
            node, inputs_done = stack.pop()
            if inputs_done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((x, False) for x in node.inputs)
        return order

    return oldest_first


def judge(oldest_first, rng):
    f = program(rng)
    root = f(*(Node(v) for v in rng.uniform(0.4, 1, f.n)))
    check(oldest_first, root, "a small graph")
    length = int(rng.integers(3000, 8000))
    chain = Node(1.0)
    for k in range(length):
        chain = chain * 0.5 if k % 2 else chain + chain
    try:
        check(oldest_first, chain, f"a chain of {length:,} nodes")
    except RecursionError as e:
        raise Failed(f"oldest_first: RecursionError on a chain of {length:,} nodes") from e
    if sys.getrecursionlimit() != LIMIT:
        raise Failed(
            "the recursion limit was raised: it belongs to the whole program, and a longer chain "
            "comes along"
        )


def check(oldest_first, root, what):
    order = oldest_first(root)
    if not isinstance(order, list):
        raise Failed(f"oldest_first should return a list, not a {type(order).__name__}")
    place = {node: k for k, node in enumerate(order)}
    todo, wanted = [root], {root}
    while todo:
        for x in todo.pop()._inputs:
            if x not in wanted:
                wanted.add(x)
                todo.append(x)
    if set(order) != wanted or len(place) != len(order):
        raise Failed(
            f"oldest_first: of {what}, {len(wanted)} nodes, it gives {len(order)} "
            f"({len(place)} different ones)"
        )
    if any(place[x] > place[node] for node in order for x in node._inputs):
        raise Failed(f"oldest_first: in {what}, a node comes before one of its inputs")


def looks_fine(oldest_first, rng):
    a, b = Node(0.5), Node(-0.8)
    order = oldest_first((a * b + b) * 0.5)
    assert len(order) == 5
    return "oldest_first(root of (a b + b) / 2)\ngives 5 nodes, each after its inputs"


EXHIBIT = Exhibit(
    title="A sequence of two thousand words",
    mechanism="recursion: the depth of the graph meets the limit of the call stack",
    seen="micrograd, MyGrad, neunet, NeuralForge",
    story="""
        The engine sorts its graph in eight lines, and they are right. It has trained everything it
        was given, until a recurrent network reads a text of two thousand words: RecursionError,
        in the backward pass of all places.
        """,
    broken=broken,
    solution=solution,
    looks_fine=looks_fine,
    judge=judge,
    hints=(
        "How deep do the calls of visit go for y = x · a · a · a · …?",
        "Python allows 1000 calls inside each other by default. A higher limit only moves the "
        "wall. What does the call stack remember that a list could?",
        "Keep a list of nodes that are still to be visited. The difficulty is the line after the "
        "loop: a node belongs into the order only when its inputs are in it.",
        """
        Put (node, False) on the stack for "to be visited" and (node, True) for "its inputs are
        done". When a node is visited, push (node, True) first and its inputs on top of it.
        """,
    ),
    why="""
        A graph's depth grows with the length of the data, and no stack frame should. Depth-first
        search with a stack of its own gives the same order: a node is appended when the marker
        under its inputs is reached.

        Sorting by birth would do too, where nodes are numbered. The same trap waits elsewhere: in
        printing, pickling, and in freeing a long chain.
        """,
    cases=6,
    play=PLAY + "print(oldest_first(y))",
)
