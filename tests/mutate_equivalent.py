"""Mutants that are no mistakes: they compute the same gradients, and here is why.

Kept by hand. The tool looks at each of them again on every run, and reports an entry whose mutant
is killed after all, or is gone. An id says where: op, place, line of the place, kind, number.
"""

EQUIVALENT = {
    # The engine undoes broadcasting, not the op.
    "broadcast_to:dx:0:unbroadcast:1": "the engine sums g down to the shape of x",
    "broadcast_to:dx:0:wrong-name:1": "this sums nothing; the engine sums g",
    # Shortcuts: without them the general way computes the same numbers, only more slowly.
    "div:over:5:branch:2": "a shortcut: without a zero in x the two quotients are one",
    "einsum:way_back:15:branch:1": "a shortcut: without repeated labels the diagonal is all",
    "engine:_useful:5:branch:1": "a shortcut: gradients that nobody asked for change no other",
    "engine:backpropagate:36:branch:2": "a shortcut: a sum in place saves an array",
    "engine:backpropagate:41:stale:1": "the same: no sum is known to be ours, so each is a new one",
    "engine:backpropagate:80:branch:1": "a shortcut: asked for nothing, an op gives None",
    "matmul:db:2:wrong-name:2": "a shortcut: one large product for many small ones",
    "pow:da:2:branch:2": "a shortcut: for a whole exponent the general rule gives the same",
    "pow:da:2:drop-term:6": "a shortcut: for the exponent 0 the general rule gives zeros too",
    "pow:da:8:detach:1": "an exponent of integers has no derivative",
    "scaled_dot_product_attention:pullback:4:branch:1": "computed again, p has the same bits",
    "scaled_dot_product_attention:backward:15:wrong-name:2": "only asked on which device it is",
    # What the edit changes makes no difference where it is used.
    "erf:dx:1:off-by-one:2": "e^(-z²) is 0 in floating-point numbers at 30 as at 31",
    "erf:dx:1:swap:1": "clip(-30, x, 30) is what clip(x, -30, 30) is, and has its gradient",
    "std:dx:2:off-by-one:2": "what it is divided by there is replaced by 0",
    "sin:dx:0:detach:2": "tame only asks where g is 0: that has no derivative",
}
