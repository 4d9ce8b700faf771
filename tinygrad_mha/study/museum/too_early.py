"""Too early: a node passes its gradient on before all of it has arrived."""

from .exhibit import Exhibit
from .graph import PLAY, certify_walk, walk_looks_fine


def broken():
    def gradients(root):
        """d root / d node of every node behind root, as a dict.

        A node has .inputs, a slope for each of them in .slopes, and .born:
        nodes are numbered in the order in which they were made.
        """
        found, queue = {root: 1.0}, [root]
        for node in queue:  # which grows on the way
            for x, slope in zip(node.inputs, node.slopes, strict=True):
                if x not in found:
                    found[x] = 0.0
                    queue.append(x)
                found[x] += found[node] * slope
        return found

    return gradients


def solution():
    def gradients(root):
        """d root / d node of every node behind root, as a dict.

        A node has .inputs, a slope for each of them in .slopes, and .born:
        nodes are numbered in the order in which they were made.
        """
        found, queue = {root: 0.0}, [root]
        for node in queue:  # which grows on the way
            for x in node.inputs:
                if x not in found:
                    found[x] = 0.0
                    queue.append(x)
        found[root] = 1.0
        for node in sorted(queue, key=lambda n: n.born, reverse=True):
            for x, slope in zip(node.inputs, node.slopes, strict=True):
                found[x] += found[node] * slope
        return found

    return gradients


EXHIBIT = Exhibit(
    title="The short cut arrives first",
    mechanism="a node passes its gradient on before it is complete",
    seen="TrenTorch PR#182 (21 came out as 6), PyNorch#90; nptorch walks every path instead",
    story="""
        Contributions are added, each node is visited once, and still the gradient is wrong: in
        networks with short cuts, which is to say in all of today's. Chains, trees and small
        diamonds are right.
        """,
    broken=broken,
    solution=solution,
    looks_fine=walk_looks_fine,
    judge=lambda gradients, rng: certify_walk(gradients, rng),
    hints=(
        "A node u is used by the result itself, and by a chain of other nodes that leads there "
        "too. When does the queue visit u?",
        "The queue visits nodes by their distance from the root. A node may be passed over by the "
        "long way round: then it has passed on what came by the short one only.",
        "A node may pass its gradient on when every node that uses it has done so. Which order "
        "makes sure of that? (To visit it once a path is right too, and takes for ever.)",
        "First collect the nodes, without gradients. Then go through them newest first: a node is "
        "always younger than its inputs.",
    ),
    why="""
        The chain rule takes the sum over *all* uses before the product with the slope:

            dL/dx = Σ (dL/du · ∂u/∂x)    over the nodes u that use x

        so it has to be evaluated in an order where all u come before x. Breadth first is not such
        an order; a topological one is. Since a node is made after its inputs, "newest first" is
        topological and costs a sort by number.
        """,
    play=PLAY + "print(gradients(y))",
)
