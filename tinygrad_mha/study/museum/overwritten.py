"""Overwritten: a node that is used twice keeps the gradient that came last."""

from .exhibit import Exhibit
from .graph import PLAY, certify_walk, walk_looks_fine


def broken():
    def gradients(root):
        """d root / d node of every node behind root, as a dict.

        A node has .inputs, a slope for each of them in .slopes, and .born:
        nodes are numbered in the order in which they were made.
        """
        found, todo = {root: 1.0}, {root}
        while todo:
            node = max(todo, key=lambda n: n.born)
            todo.remove(node)
            for x, slope in zip(node.inputs, node.slopes, strict=True):
                found[x] = found[node] * slope
                todo.add(x)
        return found

    return gradients


def solution():
    def gradients(root):
        """d root / d node of every node behind root, as a dict.

        A node has .inputs, a slope for each of them in .slopes, and .born:
        nodes are numbered in the order in which they were made.
        """
        found, todo = {root: 1.0}, {root}
        while todo:
            node = max(todo, key=lambda n: n.born)
            todo.remove(node)
            for x, slope in zip(node.inputs, node.slopes, strict=True):
                found[x] = found.get(x, 0.0) + found[node] * slope
                todo.add(x)
        return found

    return gradients


EXHIBIT = Exhibit(
    title="The residual connection that cuts the wire",
    mechanism="= for +=: a node used twice keeps one of its gradients",
    seen="early versions of tinygrad (t.grad = g)",
    story="""
        A little engine learns everything a chain of layers can. Then somebody adds a residual
        connection, y = x + f(x), and the layers below it stop learning properly. Each node is
        visited once, newest first, so that its gradient is complete when it is passed on. Is it?
        """,
    broken=broken,
    solution=solution,
    looks_fine=walk_looks_fine,
    judge=lambda gradients, rng: certify_walk(gradients, rng),
    hints=(
        "y = x + x. How large is dy/dx, and what does the loop find?",
        "The two uses of x are two turns of the inner loop. What is left of the first one after "
        "the second?",
        "By the chain rule, x gets one term from each of its uses, and they are added.",
        "found[x] = found.get(x, 0.0) + ...",
    ),
    why="""
        If x is used in u and in v, then

            dL/dx = dL/du · du/dx + dL/dv · dv/dx

        one term for each use. "Newest first" makes sure that all terms have arrived before x
        passes its gradient on; the sum is what they arrive in.
        """,
    play=PLAY + "print(gradients(y))",
)
