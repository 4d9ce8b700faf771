"""The second walk: what the first left on the nodes in between is counted again."""

import numpy as np

from .exhibit import Exhibit
from .graph import PLAY, Node, certify_program, program
from .judging import Failed


def broken():
    def backward(root):
        """Add d root / d leaf to leaf.grad, on top of what is there.

        Leaves are nodes without .inputs. .born numbers nodes as they are made.
        """
        nodes, todo = {root}, [root]
        while todo:
            for x in set(todo.pop().inputs) - nodes:
                nodes.add(x)
                todo.append(x)
        root.grad = 1.0
        for node in sorted(nodes, key=lambda n: n.born, reverse=True):
            for x, slope in zip(node.inputs, node.slopes, strict=True):
                x.grad += node.grad * slope

    return backward


def solution():
    def backward(root):
        """Add d root / d leaf to leaf.grad, on top of what is there.

        Leaves are nodes without .inputs. .born numbers nodes as they are made.
        """
        nodes, todo = {root}, [root]
        while todo:
            for x in set(todo.pop().inputs) - nodes:
                nodes.add(x)
                todo.append(x)
        found = dict.fromkeys(nodes, 0.0)
        found[root] = 1.0
        for node in sorted(nodes, key=lambda n: n.born, reverse=True):
            if not node.inputs:
                node.grad += found[node]
            for x, slope in zip(node.inputs, node.slopes, strict=True):
                found[x] += found[node] * slope

    return backward


def judge(backward, rng):
    times = int(rng.integers(2, 5))

    def way_back(leaves, root):
        backward(root)
        first = np.array([leaf.grad for leaf in leaves], dtype=float)
        for _ in range(times - 1):
            backward(root)
        now = np.array([leaf.grad for leaf in leaves], dtype=float)
        if not np.allclose(now, times * first):
            i = int(np.abs(now - times * first).argmax())
            raise Failed(
                f"backward: after one call {'abcd'[i]}.grad is {first[i]:.6g}, after {times} calls "
                f"{now[i]:.6g} and not {times} times that"
            )
        return first

    certify_program("backward", program(rng), way_back, rng)
    a = Node(2.0)
    u = a * 3.0  # which belongs to two results
    backward(u * 5.0)
    backward(u * 7.0)
    if abs(a.grad - 36) > 1e-9:
        raise Failed(f"backward of 5 u, then of 7 u, for u = 3 a: a.grad is {a.grad}, and not 36")


def looks_fine(backward, rng):
    a, b = Node(0.5), Node(-0.8)
    backward((a * b + b) * 0.5)
    assert np.isfinite([a.grad, b.grad]).all()
    return (
        "backward(root of (a b + b) / 2)\n"
        f"adds {a.grad:.3g} to a.grad and {b.grad:.3g} to b.grad, which is right"
    )


EXHIBIT = Exhibit(
    title="What the first one left behind",
    mechanism="a second backward pass counts again what the first left on inner nodes",
    seen="micrograd, neunet",
    story="""
        Two losses share an encoder. For each, backward() is called, and gradients add up: that is
        how it is meant. The encoder's gradient comes out larger than the sum of the two, and
        calling backward() twice on one loss gives three times the gradient, or worse.
        """,
    broken=broken,
    solution=solution,
    looks_fine=looks_fine,
    judge=judge,
    hints=(
        "Gradients should add up over calls. On which nodes, and on which not?",
        "y = 5 (3 a). Follow u = 3 a through two calls: what is u.grad when the second one starts?",
        "A leaf keeps its sum from call to call. A node in between must begin each call at 0.",
        "Keep the gradients of one call in a dict of its own, and add to .grad on leaves only.",
    ),
    why="""
        One call computes dL/du for every node, and has to start from nothing but dL/dL = 1. Only
        the *result* on a leaf is accumulated. If u.grad survives, the second call adds its 5 to
        the 5 of the first, and passes on 10: a.grad is 15 + 30 instead of 15 + 15.
        """,
    play=PLAY + "backward(y)\nprint(a.grad, b.grad)",
)
