"""Waiting for ever: for the gradient of a branch that does not lead to the loss."""

from .exhibit import Exhibit
from .graph import PLAY, certify_walk, walk_looks_fine


def broken():
    def gradients(root):
        """d root / d node of every node behind root, as a dict.

        A node has .inputs, a slope for each of them in .slopes, and .users:
        how many times other nodes have it among their inputs.
        """
        found, arrived, ready = {root: 1.0}, {}, [root]
        while ready:
            node = ready.pop()
            for x, slope in zip(node.inputs, node.slopes, strict=True):
                found[x] = found.get(x, 0.0) + found[node] * slope
                arrived[x] = arrived.get(x, 0) + 1
                if arrived[x] == x.users:
                    ready.append(x)
        return found

    return gradients


def solution():
    def gradients(root):
        """d root / d node of every node behind root, as a dict.

        A node has .inputs, a slope for each of them in .slopes, and .users:
        how many times other nodes have it among their inputs.
        """
        expected, behind = {root: 0}, [root]
        for node in behind:  # which grows on the way
            for x in node.inputs:
                if x not in expected:
                    expected[x] = 0
                    behind.append(x)
                expected[x] += 1
        found, arrived, ready = {root: 1.0}, {}, [root]
        while ready:
            node = ready.pop()
            for x, slope in zip(node.inputs, node.slopes, strict=True):
                found[x] = found.get(x, 0.0) + found[node] * slope
                arrived[x] = arrived.get(x, 0) + 1
                if arrived[x] == expected[x]:
                    ready.append(x)
        return found

    return gradients


EXHIBIT = Exhibit(
    title="The letter that never comes",
    mechanism="a node waits for gradients of a branch that does not lead to the loss",
    seen="NeuralForge (zero gradients)",
    story="""
        Each node waits until all that use it have reported, and passes its gradient on then: no
        sort, no recursion. One day somebody computes the accuracy from the logits, beside the loss,
        and looks at it. The network stops learning.
        """,
    broken=broken,
    solution=solution,
    looks_fine=walk_looks_fine,
    judge=lambda gradients, rng: certify_walk(gradients, rng),
    hints=(
        "Who counts as a user of a node, and who of them sends it a gradient?",
        "A node that was computed from the logits and does not lead to the root is counted, and "
        "never reached. What does the logits' node wait for?",
        "Count only the uses by nodes that the root depends on. For that, walk from the root once "
        "before the gradients do.",
        "In the first walk add 1 to expected[x] for every x in node.inputs, visiting each node "
        "once. Then compare arrived[x] with expected[x].",
    ),
    why="""
        The sum in the chain rule runs over the uses of x that L depends on; of all others the
        derivative is 0, and no message comes. How many to wait for is a property of (root, node),
        not of the node, so it cannot be kept in the node when the graph is built. This is Kahn's
        algorithm on the part of the graph behind the root.
        """,
    play=PLAY + "print(gradients(y))",
)
