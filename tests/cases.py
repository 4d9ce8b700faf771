"""Cases for every op: name -> Hypothesis strategy of ``(args, params)``.

They widen each op's own ``sample``: shapes that broadcast, 0-d and empty arrays, every kind of axis
and index, and arrays that lie in memory in unusual ways. Float arrays are float64 and away from
kinks, so that differences can be taken anywhere; kinks and infinities have tests of their own.
"""

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

# ------------------------------------------------------------------------------------- values

# Thousandths: no denormals, and a failure shrinks to 0, 0.001 or 1.
numbers = st.integers(-2000, 2000).map(lambda k: k / 1000)
positives = st.integers(500, 2000).map(lambda k: k / 1000)
nonzero = numbers.map(lambda v: v - 0.5 if v < 0 else v + 0.5)


def lay_out(a, how):
    """The same values, differently placed in memory."""
    if how == "read-only":
        a.flags.writeable = False
    if a.ndim == 0:
        return a
    if how == "transposed":
        return np.ascontiguousarray(a.T).T
    if how == "strided":
        wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]))
        wide[..., ::2] = a
        return wide[..., ::2]
    if how == "reversed":
        return np.flip(np.flip(a).copy())
    return a


layouts = st.sampled_from(["plain", "transposed", "strided", "reversed", "read-only"])


def arrays(shape, elements=numbers):
    values = hnp.arrays(np.float64, shape, elements=elements, fill=st.nothing())
    return st.builds(lay_out, values, layouts)


@st.composite
def distinct(draw, *shapes):
    """Arrays whose numbers are all different, from each other and from 0, by at least 0.1."""
    sizes = [int(np.prod(s)) for s in shapes]
    ranks = np.array(draw(st.permutations(range(sum(sizes)))), dtype=float)
    parts = np.split((ranks - sum(sizes) // 2 + 0.5) * 0.2, np.cumsum(sizes)[:-1])
    return tuple(
        lay_out(p.reshape(s), draw(layouts)) for p, s in zip(parts, shapes, strict=True)
    )  # fmt: skip


# ------------------------------------------------------------------------------------- shapes


def shape(min_dims=0, max_dims=3, empty=True):
    """A small shape; one in four may hold an axis of length 0."""
    full = hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=1, max_side=3)
    some = hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=0, max_side=2)
    return st.integers(0, 3).flatmap(lambda k: some if empty and k == 3 else full)


def some_or_none(draw):
    """The smallest length of an axis: now and then 0."""
    return draw(st.sampled_from([1, 1, 1, 1, 0]))


def together(n, empty=True):
    """n shapes that broadcast."""

    def of(min_side):
        return hnp.mutually_broadcastable_shapes(
            num_shapes=n, min_side=min_side, max_side=3, max_dims=3
        ).map(lambda s: s.input_shapes)

    return st.integers(0, 3).flatmap(lambda k: of(0 if empty and k == 3 else 1))


@st.composite
def axes(draw, ndim):
    """None, one axis, or several; counted from the front or from the back."""
    kind = draw(st.sampled_from(["none", "one", "several"]))
    if kind == "none" or ndim == 0:
        return None
    if kind == "one":
        return draw(st.integers(-ndim, ndim - 1))
    return draw(signed(draw(st.permutations(range(ndim)))[: draw(st.integers(0, ndim))], ndim))


def signed(axes, ndim):
    """A tuple of axes, each as it is or counted from the back."""
    return st.tuples(*[st.sampled_from([a, a - ndim]) for a in axes])


# ------------------------------------------------------------------------------------ cases


def unary(elements=numbers, min_dims=0):
    return shape(min_dims).flatmap(lambda s: arrays(s, elements)).map(lambda x: ((x,), {}))


@st.composite
def binary(draw, a=numbers, b=numbers):
    """Two arrays that broadcast, or an array and a Python number on either side."""
    sa, sb = draw(together(2))
    x, y = draw(arrays(sa, a)), draw(arrays(sb, b))
    which = draw(st.integers(0, 5))
    if which == 4:
        x = draw(a)
    if which == 5:
        y = draw(b)
    return (x, y), {}


@st.composite
def power(draw):
    """A positive base with any exponent; any base with a whole exponent, which may be negative."""
    if draw(st.booleans()):
        return draw(binary(a=positives))
    x = draw(arrays(draw(shape()), nonzero))
    return (x, draw(st.sampled_from([0, 1, 2, 3, -1, -2.0]))), {}


@st.composite
def extremes(draw):
    """For maximum and minimum: two arrays without ties."""
    return draw(distinct(*draw(together(2)))), {}


@st.composite
def choice(draw):
    sc, sa, sb = draw(together(3))
    condition = draw(hnp.arrays(bool, sc))
    a, b = draw(arrays(sa)), draw(arrays(sb))
    which = draw(st.integers(0, 5))
    return (condition, 0.5 if which == 4 else a, -0.5 if which == 5 else b), {}


@st.composite
def masked(draw):
    sx, sm = draw(together(2))
    return (draw(arrays(sx)), draw(hnp.arrays(bool, sm))), {"value": draw(numbers)}


@st.composite
def reshaped(draw):
    s = draw(shape())
    x = draw(arrays(s))
    wanted = [s[::-1], (1, *s), (*s, 1, 1), (x.size,), s]
    wanted += [(-1,), (-1, *s[1:]) if s else (-1,)] if x.size else []
    return (x,), {"shape": draw(st.sampled_from(wanted))}


@st.composite
def transposed(draw):
    x = draw(arrays(draw(shape())))
    order = draw(signed(draw(st.permutations(range(x.ndim))), x.ndim))
    return (x,), {"axes": draw(st.sampled_from([None, order, list(order)]))}


@st.composite
def swapped(draw):
    x = draw(arrays(draw(shape(min_dims=1))))
    one = st.integers(-x.ndim, x.ndim - 1)
    return (x,), {"axis1": draw(one), "axis2": draw(one)}


@st.composite
def expanded(draw):
    x = draw(arrays(draw(shape())))
    n = x.ndim + 1
    return (x,), {"axis": draw(st.one_of(st.integers(-n, n - 1), st.sampled_from([(0, -1), ()])))}


@st.composite
def squeezed(draw):
    kept = draw(shape(max_dims=2))
    s = draw(st.permutations([*kept, 1]))
    x = draw(arrays(tuple(s)))
    ones = tuple(a for a, n in enumerate(s) if n == 1)
    at = [None, ones, ones[0], ones[-1] - x.ndim, ()]
    return (x,), {"axis": draw(st.sampled_from(at))}


@st.composite
def resized(draw, down):
    """For broadcast_to and sum_to: a shape, and one that it can be broadcast to."""
    low = draw(shape())
    sides = {"min_side": 0 if 0 in low else 1, "max_side": 3, "max_dims": 3}
    pair = hnp.mutually_broadcastable_shapes(num_shapes=1, base_shape=low, **sides)
    high = draw(pair).result_shape
    if down:
        return (draw(arrays(high)),), {"shape": low}
    return (draw(arrays(low)),), {"shape": high}


@st.composite
def joined(draw):
    if draw(st.integers(0, 4)) == 4:  # axis=None joins flat rows of numbers, whatever the shapes
        shapes = draw(st.lists(shape(max_dims=2), min_size=1, max_size=3))
        return tuple(draw(arrays(s)) for s in shapes), {"axis": None}
    s = list(draw(shape(min_dims=1)))
    axis = draw(st.integers(-len(s), len(s) - 1))
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        s[axis] = draw(st.integers(0, 2))
        parts.append(draw(arrays(tuple(s))))
    return tuple(parts), {"axis": axis}


@st.composite
def stacked(draw):
    s = draw(shape(max_dims=2))
    parts = tuple(draw(arrays(s)) for _ in range(draw(st.integers(1, 3))))
    return parts, {"axis": draw(st.integers(-len(s) - 1, len(s)))}


@st.composite
def keys(draw, s):
    """Any index NumPy knows for an array of shape s (without empty axes)."""
    kinds = ["basic", "basic"] + (["integers", "mask", "mixture", "mixture"] if s else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "basic":
        return draw(hnp.basic_indices(s, allow_newaxis=True, max_dims=4))
    if kind == "integers":
        few = hnp.array_shapes(min_dims=1, max_dims=2, max_side=3)
        return draw(hnp.integer_array_indices(s, result_shape=few))
    if kind == "mask":
        return draw(hnp.arrays(bool, s[: draw(st.integers(1, len(s)))]))
    key, n = [], draw(st.integers(1, 3))
    axes, from_front = draw(st.integers(1, len(s))), draw(st.booleans())
    for side in s[:axes] if from_front else s[-axes:]:
        one = st.integers(-side, side - 1)
        part = draw(st.sampled_from(["int", "slice", "array", "column", "mask"]))
        if part == "int":
            key.append(draw(one))
        elif part == "slice":
            key.append(draw(st.slices(side)))
        elif part == "mask" and not any(isinstance(k, np.ndarray) for k in key):
            mask = np.zeros(side, bool)
            mask[draw(one)] = True  # one hit: broadcasts with every integer array
            key.append(mask)
        else:
            key.append(draw(hnp.arrays(np.int64, (n, 1) if part == "column" else n, elements=one)))
    if not from_front:
        key.insert(0, Ellipsis)
    if draw(st.booleans()):
        key.insert(draw(st.integers(0, len(key))), None)
    return tuple(key)


@st.composite
def indexed(draw):
    s = draw(shape(empty=False))
    return (draw(arrays(s)),), {"key": draw(keys(s))}


@st.composite
def scattered(draw):
    s = draw(shape(empty=False))
    key = draw(keys(s))
    return (draw(arrays(np.zeros(s)[key].shape)),), {"key": key, "shape": s}


@st.composite
def reduced(draw, empty=True):
    x = draw(arrays(draw(shape(empty=empty))))
    return (x,), {"axis": draw(axes(x.ndim)), "keepdims": draw(st.booleans())}


@st.composite
def averaged(draw):
    s, params = draw(of_something())
    return (draw(arrays(s)),), params


@st.composite
def extremum(draw):
    s, params = draw(of_something())
    return draw(distinct(s)), params


@st.composite
def product(draw):
    pair = draw(
        hnp.mutually_broadcastable_shapes(
            signature="(n?,k),(k,m?)->(n?,m?)",
            max_side=3,
            max_dims=2,
            min_side=draw(st.sampled_from([1, 1, 1, 0])),
        )
    )
    a, b = pair.input_shapes
    return (draw(arrays(a)), draw(arrays(b))), {}


@st.composite
def along(draw, infinities=False):
    """For the softmax family: some entries of some rows, or whole rows, may be -inf."""
    x = draw(arrays(draw(shape(min_dims=1))))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    if infinities and draw(st.booleans()):
        x = np.where(draw(hnp.arrays(bool, x.shape)), -np.inf, x)
    return (x,), {"axis": axis}


@st.composite
def classified(draw):
    lead = draw(shape(max_dims=2))
    classes = draw(st.integers(1, 4))
    logits = draw(arrays((*lead, classes)))
    ignored = draw(st.sampled_from([None, -1, -100, 0]))
    goals = st.integers(0, classes - 1)
    goals = goals if ignored is None else st.one_of(st.just(ignored), goals)
    targets = draw(hnp.arrays(draw(st.sampled_from([np.int64, np.int32])), lead, elements=goals))
    weight = draw(st.one_of(st.none(), arrays((classes,), positives)))
    params = {
        "weight": weight,
        "label_smoothing": draw(st.sampled_from([0.0, 0.1, 1.0])),
        "ignore_index": ignored,
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
    }
    return (logits, targets), params


@st.composite
def affine(draw):
    lead, n, m = draw(shape(max_dims=2)), draw(st.integers(0, 3)), draw(st.integers(0, 3))
    bias = draw(arrays((m,))) if draw(st.booleans()) else None
    return (draw(arrays((*lead, n))), draw(arrays((m, n))), bias), {}


@st.composite
def normalised(draw):
    """Rows with some spread: a constant row has a curvature that no difference can follow."""
    lead = draw(shape(max_dims=2))
    row = draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=some_or_none(draw), max_side=3))
    (x,) = draw(distinct((*lead, *row)))
    eps = draw(st.sampled_from([1e-5, 1e-3, 0.5]))
    weight, bias = (draw(arrays(row)) if draw(st.integers(0, 3)) else None for _ in range(2))
    if weight is None and bias is None:
        (x,) = draw(distinct((*lead, row[-1])))
    return (x, weight, bias), {"eps": eps}


@st.composite
def added_and_normalised(draw):
    """Both terms are arrays of numbers that differ, and so does their sum."""
    (x, weight, bias), params = draw(normalised())
    part = draw(arrays(x.shape))
    return (x - part, part, weight, bias), params


@st.composite
def affine_activated(draw):
    case, _ = draw(affine())
    return case, {"approximate": draw(st.sampled_from(["none", "none", "tanh"]))}


@st.composite
def dropped(draw):
    x = draw(arrays(draw(shape())))
    p = draw(st.sampled_from([0.5, 0.25, 0.0, 1.0]))
    return (x,), {"p": p, "training": draw(st.integers(0, 4)) > 0, "seed": draw(st.integers(0, 99))}


@st.composite
def attended(draw):
    shapes = draw(
        hnp.mutually_broadcastable_shapes(
            signature="(q,d),(k,d),(k,e)->(q,e)",
            max_side=3,
            max_dims=2,
            min_side=some_or_none(draw),
        )
    )
    q, k, v = (draw(arrays(s)) for s in shapes.input_shapes)
    scores = (*np.broadcast_shapes(q.shape[:-2], k.shape[:-2]), q.shape[-2], k.shape[-2])
    kind = draw(st.sampled_from(["none", "boolean", "boolean", "float"]))
    mask = None
    if kind != "none":  # of any shape that broadcasts to the scores; some rows may be all False
        part = scores[draw(st.integers(0, len(scores) - 1)) :]
        part = tuple(n if draw(st.integers(0, 2)) else 1 for n in part)
        mask = draw(hnp.arrays(bool, part))
        if kind == "float":
            mask = np.where(mask, draw(arrays(part)), -np.inf)
    params = {
        "mask": mask,
        "is_causal": draw(st.booleans()),
        "dropout_p": draw(st.sampled_from([0.0, 0.0, 0.5])),
        "scale": draw(st.sampled_from([None, 0.7])),
        "seed": draw(st.integers(0, 99)),
        "recompute": draw(st.booleans()),
    }
    return (q, k, v), params


@st.composite
def recurrent(draw):
    t, b = (
        draw(st.sampled_from([3, 2, 4, 3, 2, 4, 1, 0])),
        draw(st.sampled_from([1, 2, 3, 2, 3, 0])),
    )
    i, h = draw(st.sampled_from([1, 2, 2, 0])), draw(st.integers(1, 2))
    shapes = (t, b, i), (b, h), (b, h), (4 * h, i), (4 * h, h), (4 * h,), (4 * h,)
    args = [draw(arrays(s)) for s in shapes]
    for bias in (5, 6):
        if draw(st.integers(0, 3)) == 0:
            args[bias] = None
    lengths = draw(st.one_of(st.none(), st.lists(st.integers(0, t), min_size=b, max_size=b)))
    if lengths is not None and draw(st.booleans()):
        lengths = np.array(lengths)
    return tuple(args), {"lengths": lengths, "reverse": draw(st.booleans())}


@st.composite
def looked_up(draw):
    """Ids repeat. The padding row is not among them: what it gives is a value, not a gradient."""
    rows, d = draw(st.integers(2, 4)), draw(st.integers(0, 3))
    padding = draw(st.one_of(st.none(), st.integers(0, rows - 1)))
    ids = st.sampled_from([k for k in range(rows) if k != padding])
    ids = draw(hnp.arrays(draw(st.sampled_from([np.int64, np.int32])), draw(shape()), elements=ids))
    return (ids, draw(arrays((rows, d)))), {"padding_idx": padding}


@st.composite
def subscripted(draw):
    """One to three operands; see ``term`` for what their subscripts may be."""
    sizes = {label: draw(st.sampled_from([2, 3, 2, 3, 2, 3, 1, 0])) for label in "ijK"}
    unnamed = draw(st.sampled_from([None, None, None, (), (2,), (3, 2)]))

    def term():
        """Labels (perhaps one twice: a diagonal), perhaps one of size 1, perhaps an ellipsis."""
        labels = draw(st.permutations(sorted(sizes)))[: draw(st.sampled_from([2, 3, 1, 2, 3, 0]))]
        if labels and draw(st.integers(0, 3)) == 3:
            labels.insert(draw(st.integers(0, len(labels))), draw(st.sampled_from(labels)))
        narrow = draw(st.sampled_from([None, None, None, *sizes]))
        part = [(label, (1 if label == narrow else sizes[label],)) for label in labels]
        if unnamed is not None and draw(st.booleans()):
            axes = unnamed[draw(st.integers(0, len(unnamed))) :]
            axes = tuple(n if draw(st.integers(0, 3)) else 1 for n in axes)
            part.insert(draw(st.integers(0, len(part))), ("...", axes))
        return "".join(label for label, _ in part), sum((n for _, n in part), start=())

    count = draw(st.sampled_from([2, 2, 1, 3]))
    terms, shapes = zip(*[term() for _ in range(count)], strict=True)
    subscripts = ",".join(terms)
    if draw(st.integers(0, 3)):
        output = draw(st.permutations(sorted({c for c in subscripts if c.isalpha()})))
        output = output[: draw(st.integers(0, min(2, len(output))))]
        if "." in subscripts:
            output.insert(draw(st.integers(0, len(output))), "...")
        subscripts += draw(st.sampled_from(["->", " -> "])) + "".join(output)
    return tuple(draw(arrays(s)) for s in shapes), {"subscripts": subscripts}


# ------------------------------------------- the rest of chapters 2 to 5, erf, GELU, losses


wide = st.integers(-6000, 6000).map(lambda k: k / 1000)  # as far as the tails of erf
above_minus_one = st.integers(-900, 2000).map(lambda k: k / 1000)
shares = st.integers(0, 1000).map(lambda k: k / 1000)


@st.composite
def clipped(draw):
    """Limits that are missing, numbers, or arrays (which may cross); nothing ties."""
    x, low, high = draw(distinct(*draw(together(3))))
    # distinct() gives odd multiples of 0.1, so even ones lie between
    kinds = draw(st.sampled_from(["aa", "aa", "an", "na", "nn", "a-", "-a", "n-", "-n"]))
    low = {"a": low, "n": draw(st.sampled_from([-0.4, 0.0])), "-": None}[kinds[0]]
    high = {"a": high, "n": draw(st.sampled_from([0.2, 1.0, -0.6])), "-": None}[kinds[1]]
    if "a" in kinds and draw(st.integers(0, 5)) == 5:
        x = 0.4
    return (x, low, high), {}


@st.composite
def flipped(draw):
    x = draw(arrays(draw(shape())))
    return (x,), {"axis": draw(axes(x.ndim))}


@st.composite
def tiled(draw):
    """A number, or a list that is shorter or longer than the axes; no copies are copies too."""
    x = draw(arrays(draw(shape(max_dims=2))))
    count = st.sampled_from([1, 2, 3, 0])
    several = st.lists(count, max_size=3)
    return (x,), {"reps": draw(st.one_of(count, several, several.map(tuple)))}


@st.composite
def padded(draw):
    """In every form NumPy knows: n, (n,), (before, after), ((before, after),), one a axis."""
    x = draw(arrays(draw(shape())))
    pair = st.tuples(*[st.integers(0, 2)] * 2)
    each = st.tuples(*[pair] * x.ndim) if x.ndim else pair
    sides = st.tuples(*[st.tuples(st.integers(0, 2))] * x.ndim) if x.ndim else pair
    one = st.integers(0, 2)
    widths = draw(st.one_of(each, each, pair, one, st.tuples(pair), st.tuples(one), sides))
    return (x,), {"widths": widths, "constant_values": draw(st.sampled_from([0, -1.5, 7]))}


@st.composite
def triangular(draw):
    x = draw(arrays(draw(shape(min_dims=2, max_dims=4))))
    return (x,), {"k": draw(st.integers(-3, 3))}


@st.composite
def cut_up(draw):
    """So many equal pieces, or cut points: in any order, from the back, and out of range."""
    x = draw(arrays(draw(shape(min_dims=1))))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    n = x.shape[axis]
    if draw(st.booleans()):
        cuts = draw(st.sampled_from([k for k in (1, 2, 3) if n % k == 0]))
    else:
        cuts = draw(st.lists(st.integers(-n - 1, n + 1), max_size=3))
        cuts = draw(st.sampled_from([cuts, sorted(cuts), tuple(cuts)]))
    return (x,), {"indices_or_sections": cuts, "axis": axis}


@st.composite
def places_in(draw, n, s):
    """Integers that count n places from the front or from the back; duplicates are likely."""
    dtype = draw(st.sampled_from([np.int64, np.int32]))
    return draw(hnp.arrays(dtype, s, elements=st.integers(-n, n - 1) if n else st.nothing()))


@st.composite
def taken(draw):
    x = draw(arrays(draw(shape())))
    axis = None if not x.ndim or draw(st.booleans()) else draw(st.integers(-x.ndim, x.ndim - 1))
    n = x.size if axis is None else x.shape[axis]
    if n and draw(st.integers(0, 3)) == 3:
        return (x, draw(st.integers(-n, n - 1))), {"axis": axis}
    some = draw(shape(max_dims=2))
    return (x, draw(places_in(n, some if n else (0, *some)))), {"axis": axis}


@st.composite
def taken_along(draw):
    """The other axes have the same length in both, or the length 1 in one of them."""
    if draw(st.integers(0, 3)) == 3:
        x = draw(arrays(draw(shape())))
        return (x, draw(places_in(x.size, draw(st.integers(0, 3)) if x.size else 0))), {
            "axis": None
        }
    s = list(draw(shape(min_dims=1)))
    t, axis = list(s), draw(st.integers(-len(s), len(s) - 1))
    for k in range(len(s)):
        if k == axis % len(s):
            t[k] = draw(st.integers(0, 3)) if s[k] else 0
        elif draw(st.integers(0, 3)) == 3:
            draw(st.sampled_from([s, t]))[k] = 1
    x = draw(arrays(tuple(s)))
    return (x, draw(places_in(s[axis], tuple(t)))), {"axis": axis}


@st.composite
def of_something(draw, least=1):
    """A shape, an axis and keepdims: at least so many elements are reduced to one."""
    s = draw(shape())
    axis = draw(axes(len(s)))
    if reduced_to_one(s, axis) < least:
        s = tuple(n or 2 for n in s)
    return s, {"axis": axis, "keepdims": draw(st.booleans())}


def reduced_to_one(s, axis):
    """How many elements."""
    sides = s if axis is None else [s[a] for a in (axis if isinstance(axis, tuple) else (axis,))]
    return int(np.prod(sides, dtype=int))


@st.composite
def spread_out(draw):
    """For var and std: numbers that differ, and a correction that leaves something to divide by."""
    s, params = draw(of_something())
    n = reduced_to_one(s, params["axis"])
    correction = draw(st.sampled_from([c for c in (0, 1, 0.5, 2) if c < n]))
    (x,) = draw(distinct(s))
    return (x,), {**params, "correction": correction}


@st.composite
def multiplied(draw):
    """Products without a zero, with one, and with several."""
    s = draw(shape())
    x = draw(arrays(s, st.one_of(nonzero, nonzero, st.just(0.0))))
    return (x,), {"axis": draw(axes(len(s))), "keepdims": draw(st.booleans())}


@st.composite
def accumulated(draw):
    x = draw(arrays(draw(shape())))
    axis = st.integers(-x.ndim, x.ndim - 1) if x.ndim else st.none()
    return (x,), {"axis": draw(st.one_of(st.none(), axis))}


@st.composite
def any_two(draw):
    """Arrays whose shapes have nothing to do with each other."""
    return tuple(draw(arrays(draw(shape(max_dims=2)))) for _ in range(2)), {}


@st.composite
def activated(draw):
    x = draw(arrays(draw(shape()), wide))
    return (x,), {"approximate": draw(st.sampled_from(["none", "none", "tanh"]))}


@st.composite
def summed_up(draw):
    """For logsumexp: some entries may be -inf, as long as every row has others."""
    s, params = draw(of_something())
    x = draw(arrays(s, wide))
    if draw(st.booleans()):
        dead = draw(hnp.arrays(bool, s))
        axis = params["axis"]
        dead = dead & ~(dead.all(axis=axis, keepdims=True) if dead.size else dead)
        x = np.where(dead, -np.inf, x)
    return (x,), params


@st.composite
def log_classified(draw):
    (x, targets), params = draw(classified())
    del params["label_smoothing"]
    return (x, targets), params


@st.composite
def constant_beside(draw, s):
    """Nothing, a number, or an array that broadcasts to s."""
    kind = draw(st.sampled_from(["none", "number", "array"]))
    if kind != "array":
        return None if kind == "none" else draw(positives)
    part = s[draw(st.integers(0, len(s))) :]
    return draw(arrays(tuple(n if draw(st.integers(0, 2)) else 1 for n in part), positives))


@st.composite
def answered(draw):
    s = draw(shape())
    kind = draw(st.sampled_from(["shares", "shares", "yes or no"]))
    targets = draw(arrays(s, shares) if kind == "shares" else hnp.arrays(np.int64, s, elements=bit))
    params = {name: draw(constant_beside(s)) for name in ("weight", "pos_weight")}
    return (draw(arrays(s, wide)), targets), {**params, "reduction": draw(endings)}


bit = st.integers(0, 1)
endings = st.sampled_from(["mean", "sum", "none"])


@st.composite
def compared(draw):
    s = draw(shape())
    whole = hnp.arrays(np.int64, s, elements=st.integers(-3, 3))
    targets = draw(whole if draw(st.integers(0, 3)) == 3 else arrays(s))
    return (draw(arrays(s)), targets), {"reduction": draw(endings)}


@st.composite
def scaled(draw):
    (x, weight, _), params = draw(normalised())
    return (x, weight), params


CASES = {
    "abs": unary(nonzero),
    "add": binary(),
    "add_layer_norm": added_and_normalised(),
    "astype": unary().map(lambda case: (case[0], {"dtype": np.float64})),
    "binary_cross_entropy_with_logits": answered(),
    "broadcast_to": resized(down=False),
    "clip": clipped(),
    "concatenate": joined(),
    "cos": unary(),
    "cross_entropy": classified(),
    "cumsum": accumulated(),
    "div": binary(b=nonzero),
    "dropout": dropped(),
    "einsum": subscripted(),
    "embedding": looked_up(),
    "erf": unary(wide),
    "exp": unary(),
    "expand_dims": expanded(),
    "expm1": unary(),
    "flip": flipped(),
    "gelu": activated(),
    "getitem": indexed(),
    "identity": unary(),
    "layer_norm": normalised(),
    "linear": affine(),
    "linear_gelu": affine_activated(),
    "log": unary(positives),
    "log1p": unary(above_minus_one),
    "log_softmax": along(),
    "logsumexp": summed_up(),
    "lstm": recurrent(),
    "masked_fill": masked(),
    "matmul": product(),
    "max": extremum(),
    "maximum": extremes(),
    "mean": averaged(),
    "min": extremum(),
    "minimum": extremes(),
    "mse_loss": compared(),
    "mul": binary(),
    "neg": unary(),
    "nll_loss": log_classified(),
    "outer": any_two(),
    "pad": padded(),
    "pow": power(),
    "prod": multiplied(),
    "relu": unary(nonzero),
    "reshape": reshaped(),
    "rms_norm": scaled(),
    "scaled_dot_product_attention": attended(),
    "scatter": scattered(),
    "sigmoid": unary(),
    "silu": unary(wide),
    "sin": unary(),
    "softmax": along(infinities=True),
    "softplus": unary(wide),
    "split": cut_up(),
    "sqrt": unary(positives),
    "squeeze": squeezed(),
    "stack": stacked(),
    "std": spread_out(),
    "sub": binary(),
    "sum": reduced(),
    "sum_to": resized(down=True),
    "swapaxes": swapped(),
    "take": taken(),
    "take_along_axis": taken_along(),
    "tanh": unary(),
    "tile": tiled(),
    "to": unary().map(lambda case: (case[0], {"device": "cpu"})),
    "transpose": transposed(),
    "tril": triangular(),
    "triu": triangular(),
    "var": spread_out(),
    "where": choice(),
}
