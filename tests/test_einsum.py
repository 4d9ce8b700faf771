"""einsum: NumPy's numbers, gradients by hand, one matrix product where one will do, the errors."""

import numpy as np
import pytest
from cases import CASES
from hypothesis import given

import tinygrad_mha as tg
from tinygrad_mha import Tensor
from tinygrad_mha.contraction import plan_for_two
from tinygrad_mha.schedule import MOST, at_once, schedule
from tinygrad_mha.subscripts import parse
from tinygrad_mha.summation import plan_for_one
from tinygrad_mha.walking import LARGE, by_itself

EXPRESSIONS = [
    # one operand
    ("ij->ji", (2, 3)),
    ("ba", (2, 3)),
    ("ij->", (2, 3)),
    ("ij->j", (2, 3)),
    ("ii", (3, 3)),
    ("ii->i", (3, 3)),
    ("iij->ji", (2, 2, 3)),
    ("iji->j", (2, 3, 2)),
    ("iii->i", (2, 2, 2)),
    ("iijj->ij", (2, 2, 3, 3)),
    ("jiij->", (3, 2, 2, 3)),
    ("...", (2, 3)),
    ("...i->i...", (2, 3, 4)),
    ("...ii->...", (2, 3, 3)),
    ("i...i->...i", (3, 2, 3)),
    ("", ()),
    ("->", ()),
    ("i->i...", (3,)),
    ("i->", (0,)),
    # two
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    ("kj,ji", (2, 3), (3, 4)),
    ("ab,bC", (2, 3), (3, 4)),
    ("i I , I", (2, 3), (3,)),
    ("ji,kj->ik", (3, 2), (4, 3)),
    ("ij,jk->ki", (2, 3), (3, 4)),
    ("ij,j->i", (2, 3), (3,)),
    ("i,ij->j", (2,), (2, 3)),
    ("i,i->", (3,), (3,)),
    ("i,j->ij", (3,), (2,)),
    ("i,j->ji", (3,), (2,)),
    ("i,j->", (3,), (2,)),
    (",ij->ij", (), (2, 3)),
    (",", (), ()),
    ("ij,ij->ij", (2, 3), (2, 3)),
    ("ij,ji->ij", (2, 3), (3, 2)),
    ("ij,ji->", (2, 3), (3, 2)),
    ("ij,ij->i", (2, 3), (2, 3)),
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    ("ijb,jkb->ikb", (3, 4, 2), (4, 5, 2)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
    ("bqhd,bkhd->bhqk", (2, 4, 3, 5), (2, 6, 3, 5)),
    ("bhqk,bkhd->bqhd", (2, 3, 4, 6), (2, 6, 3, 5)),
    ("ijk,kjl->il", (2, 3, 4), (4, 3, 5)),
    ("ijk,lkj->il", (2, 3, 4), (5, 4, 3)),
    ("ii,ij->j", (3, 3), (3, 2)),
    ("ii,jj->", (3, 3), (2, 2)),
    ("ijx,jky->ik", (2, 3, 4), (3, 4, 2)),
    ("...ij,jk->...ik", (2, 5, 3, 4), (4, 2)),
    ("...ij,...jk", (4, 2, 3), (5, 1, 3, 2)),
    ("...,...", (2, 1), (3,)),
    ("i...,...j->...ij", (2, 3), (3, 4)),
    ("i,...->...i", (2,), (3, 4)),
    # sizes of 1 that are broadcast, and sizes of 0
    ("ij,jk->ik", (2, 3), (1, 4)),
    ("ij,jk->ik", (2, 1), (3, 4)),
    ("bij,bjk->bik", (1, 2, 3), (4, 3, 2)),
    ("ij,ij->ij", (1, 3), (2, 1)),
    ("i,i->", (3,), (1,)),
    ("i,i->", (1,), (1,)),
    ("ij,jk->ik", (1, 1), (1, 1)),
    ("ij,jk->ik", (2, 0), (0, 3)),
    ("ij,jk->ik", (0, 2), (2, 3)),
    ("i,i->i", (1,), (0,)),
    ("ii,i->i", (0, 0), (0,)),
    # more
    ("bi,ij,bj->b", (2, 3), (3, 4), (2, 4)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)),
    ("ij,jk,kl,lm->mi", (2, 3), (3, 4), (4, 5), (5, 2)),
    ("i,i,i->i", (3,), (1,), (3,)),
    ("i,j,k->kij", (2,), (3,), (4,)),
    ("i,j,,k->", (2,), (3,), (), (4,)),
    ("ii,...,i...", (2, 2), (3, 1), (2, 1, 4)),
    ("i,i,i,i,i->", (2,), (2,), (2,), (2,), (2,)),
]
every_expression = pytest.mark.parametrize(
    "case", EXPRESSIONS, ids=lambda case: "{} {}".format(*case)
)


def numpys(subscripts, *xs):
    """NumPy takes a space for a label where it stands beside the arrow."""
    return np.einsum("".join(subscripts.split()), *xs)


def drawn(case, rng):
    subscripts, *shapes = case
    return subscripts, [rng.standard_normal(s) for s in shapes]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def assert_same(got, want):
    assert type(got) is np.ndarray
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    tolerance = 1e-5 if got.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------- values


@every_expression
def test_the_numbers_of_numpy(case, rng):
    subscripts, xs = drawn(case, rng)
    assert_same(tg.einsum(subscripts, *xs), np.asarray(numpys(subscripts, *xs)))


@given(CASES["einsum"])
def test_the_numbers_of_numpy_wherever_hypothesis_looks(case):
    xs, params = case
    want = np.asarray(numpys(params["subscripts"], *xs))
    assert_same(tg.einsum(params["subscripts"], *xs), want)
    assert_same(tg.einsum(*xs, **params), want)


LONG = 1025  # a row of which a copy pays


def by_lot(rng):
    """Labels and sizes as they come: short rows and long ones, in every order."""
    while True:
        sizes = dict(zip("abcde", rng.choice([1, 2, 3, 5, 40], 5), strict=True))
        terms = ["".join(rng.permutation(list(sizes))[: rng.integers(1, 5)])
                 for _ in range(rng.choice([2, 2, 2, 3, 4]))]  # fmt: skip
        used = sorted(set("".join(terms)))
        output = "".join(rng.permutation(used)[: rng.integers(0, len(used) + 1)])
        if np.prod([float(sizes[l]) for l in used]) < 2e5:
            xs = [rng.standard_normal([sizes[l] for l in term]) for term in terms]
            return f"{','.join(terms)}->{output}", xs


def test_the_numbers_of_numpy_by_lot(rng):
    """Every way to lay out two operands, and every order in which more of them meet."""
    ways = set()
    for _ in range(1200):
        subscripts, xs = by_lot(rng)
        want = np.asarray(np.einsum(subscripts, *xs))
        scale = np.einsum(subscripts, *map(abs, xs)).max()
        for layout in (np.asarray, np.asfortranarray):
            got = tg.einsum(subscripts, *map(layout, xs))
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-13 * scale, err_msg=subscripts)
        shapes = tuple(x.shape for x in xs)
        if len(xs) > 2:
            ways.add(("many", at_once(subscripts, shapes)))
        else:
            plan = plan_for_two(subscripts, shapes)
            ways.add((plan.way, "transposed", plan.order is not None))
            ways.add((plan.way, "left", plan.left.flip))
            ways.add((plan.way, "right", plan.right.flip))
    both = {("matmul", what) for what in ("transposed", "left")}
    both |= {("as it lies", "transposed"), ("multiply", "transposed"), ("many",)}
    assert ways > {(*what, is_so) for what in both for is_so in (True, False)}
    assert ("loops", "left", False) in ways


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.uint16, np.float32, np.complex128])
@every_expression
def test_the_dtype_of_numpy(case, dtype, rng):
    """Plain arrays in, plain arrays out; integers stay what they are, and wrap around."""
    subscripts, *shapes = case
    xs = [np.asarray(rng.integers(0, 100, s) > 30 if dtype is bool else rng.integers(0, 100, s))
          for s in shapes]  # fmt: skip
    xs = [x.astype(dtype) for x in xs]
    assert_same(tg.einsum(subscripts, *xs), np.asarray(numpys(subscripts, *xs)))


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("bi,bi->b", ((3, LONG), (3, LONG))),
        ("ib,ib->b", ((LONG, 3), (LONG, 3))),
        ("bi,ib->b", ((3, LONG), (LONG, 3))),
        ("ib,bi->b", ((LONG, 3), (3, LONG))),
        ("ibj,bij->b", ((20, 3, 10), (3, 20, 10))),
        ("bi,bi->b", ((3, LONG), (1, LONG))),
        ("aibj,bj->ab", ((2, 3, 4, LONG), (4, LONG))),
    ],
)
def test_products_of_long_rows(subscripts, shapes, rng):
    """BLAS, or NumPy's loops where the rows lie scattered in memory."""
    a, b = (rng.standard_normal(s) for s in shapes)
    assert_same(tg.einsum(subscripts, a, b), np.einsum(subscripts, a, b))
    loss = lambda a, b: tg.einsum(subscripts, a, b)
    assert tg.gradcheck(loss, [a, b])


def test_what_an_operand_may_be(rng):
    x = rng.standard_normal((2, 3))
    assert tg.einsum("ij->i", [[1, 2], [3, 4]]).tolist() == [3, 7]
    assert tg.einsum("i,i", [1.0, 2.0], [3.0, 4.0]) == 11
    assert tg.einsum(",", 2.0, 3.0) == 6
    assert tg.einsum("", 2.0) == 2
    np.testing.assert_array_equal(tg.einsum(",ij->ji", 2.0, x), 2 * x.T)
    np.testing.assert_array_equal(
        tg.einsum("j,ij", [1, 0, 2], Tensor(x)).data, x[:, 0] + 2 * x[:, 2]
    )
    mixed = tg.einsum("i,i->i", Tensor([1.0, 2.0]), np.array([3, 4]))
    assert (mixed.dtype, mixed.numpy().tolist()) == (np.float32, [3, 8])


def test_constants_are_not_rounded_and_do_not_promote(rng):
    for dtype in (np.float32, np.float64):
        x = rng.standard_normal(3).astype(dtype)
        for a, b in [(0.1, 0.3), (np.float64(0.1), np.float64(0.3))]:
            y = tg.einsum(",,i->i", a, b, x)
            assert y.dtype == dtype
            np.testing.assert_allclose(y, 0.03 * x, rtol=1e-6 if dtype == np.float32 else 1e-15)


def test_the_op_and_its_other_form():
    assert tg.einsum is tg.REGISTRY["einsum"]
    assert repr(tg.einsum) == "<primitive op einsum(*xs, subscripts)>"
    x = Tensor([[1.0, 2.0]], requires_grad=True)
    y = tg.einsum(x, subscripts="ij->j")
    assert y.node.params == {"subscripts": "ij->j"}


# ---------------------------------------------------------------------------------- gradients


def gradients_of(subscripts, g, *xs):
    xs = [Tensor(x, requires_grad=True) for x in xs]
    tg.einsum(subscripts, *xs).backward(np.asarray(g, dtype=float))
    return [x.grad.numpy() for x in xs]


def assert_gradients(subscripts, g, xs, want):
    for got, d in zip(gradients_of(subscripts, g, *xs), want, strict=True):
        np.testing.assert_allclose(got, d, rtol=1e-12, atol=1e-12)
        assert got.shape == d.shape


def test_gradients_by_hand(rng):
    a, b = rng.standard_normal((2, 3)), rng.standard_normal((3, 4))
    g, u, v = rng.standard_normal((2, 4)), rng.standard_normal(3), rng.standard_normal(4)
    s, one = rng.standard_normal((3, 3)), np.ones((2, 3))
    assert_gradients("ij,jk->ik", g, (a, b), (g @ b.T, a.T @ g))
    assert_gradients("ij,jk->ki", g.T, (a, b), (g @ b.T, a.T @ g))
    assert_gradients("ij->ji", a.T, (b[:2, :3],), (a,))
    assert_gradients("i,j->ij", b, (u, v), (b @ v, b.T @ u))
    assert_gradients("i,ij,j->", 2, (u, b, v), (2 * b @ v, 2 * np.outer(u, v), 2 * u @ b))
    assert_gradients("ij,ij->", 2, (a, a), (2 * a, 2 * a))
    # copies along what was summed
    assert_gradients("ij->", 2, (a,), (2 * one,))
    assert_gradients("ij->i", [2, 3], (a,), (one * [[2], [3]],))
    assert_gradients("ij,k->k", v, (a, v), (one * (v @ v), a.sum() * v))
    # back onto the diagonal
    assert_gradients("ii->", 2, (s,), (2 * np.eye(3),))
    assert_gradients("ii->i", u, (s,), (np.diag(u),))
    assert_gradients("ii,i->i", u, (s, u), (np.diag(u * u), u * np.diag(s)))
    cube = np.zeros((3, 3, 3))
    cube[range(3), range(3), range(3)] = u
    assert_gradients("iii->i", u, (cube + 1,), (cube,))
    apart = np.zeros((3, 4, 3))
    apart[range(3), :, range(3)] = b
    assert_gradients("iji->ij", b, (apart + 1,), (apart,))
    # what was broadcast is summed
    assert_gradients("ij,ij->ij", a, (a[:1], a), ((a * a).sum(0, keepdims=True), a * a[:1]))
    assert_gradients("i,i->", 2, (u[:1], u), ([2 * u.sum()] * np.ones(1), 2 * u[0] * np.ones(3)))
    assert_gradients("...j,j->...", [2, 3], (a, u), (np.outer([2, 3], u), a.T @ [2, 3]))


@every_expression
def test_the_certificate_on_these_expressions(case, rng):
    subscripts, xs = drawn(case, rng)
    assert tg.gradcheck(lambda *xs: tg.einsum(subscripts, *xs), xs, order=2)


def test_the_second_order_makes_no_large_array(calls, rng):
    """The rule is written in einsum, so every order of attention's scores is a matrix product."""
    q, k = (Tensor(rng.standard_normal((1, 1, 300, 2)), requires_grad=True) for _ in range(2))
    y = tg.einsum("bhqd,bhkd->bhqk", q, k)
    (dq,) = tg.grad((y * y).sum(), [q], create_graph=True)
    (ddk,) = tg.grad((dq * dq).sum(), [k])
    assert len(calls["matmul"]) == 5
    assert max(x.size for pair in calls["matmul"] for x in pair) == 300 * 300
    assert calls["einsum"] == []
    at, bt = q.data[0, 0], k.data[0, 0]
    # dq = 2 q kᵀk, so for the square of it with S = kᵀk and P = qᵀq: 8 k (P S + S P) / 2 · 2
    s, p = bt.T @ bt, at.T @ at
    np.testing.assert_allclose(ddk.data[0, 0], 8 * bt @ (p @ s + s @ p), rtol=1e-9)


# -------------------------------------------------------------------------------------- speed


@pytest.fixture
def calls(monkeypatch):
    """The shapes of every matrix product, and the subscripts of every einsum, that NumPy does."""
    seen = {"matmul": [], "einsum": []}
    matmul, einsum = np.matmul, np.einsum

    def spy_matmul(a, b):
        seen["matmul"].append((a, b))
        return matmul(a, b)

    def spy_einsum(subscripts, *xs):
        seen["einsum"].append(subscripts)
        return einsum(subscripts, *xs)

    monkeypatch.setattr(np, "matmul", spy_matmul)
    monkeypatch.setattr(np, "einsum", spy_einsum)
    return seen


@pytest.mark.parametrize(
    ("subscripts", "a", "b", "left", "right"),
    [
        ("ij,jk->ik", (2, 3), (3, 4), (2, 3), (3, 4)),
        ("ji,kj->ik", (3, 2), (4, 3), (2, 3), (3, 4)),
        ("ij,jk->ki", (2, 3), (3, 4), (4, 3), (3, 2)),  # transposed: lies in memory as k, i
        ("ij,j->i", (2, 3), (3,), (1, 3), (3, 2)),
        ("i,i->", (3,), (3,), (1, 3), (3, 1)),
        ("ijk,ijk->", (2, 3, 4), (2, 3, 4), (1, 24), (24, 1)),
        ("bti,ij->btj", (2, 3, 4), (4, 5), (6, 4), (4, 5)),
        ("...ij,jk->...ik", (7, 2, 3, 4), (4, 5), (42, 4), (4, 5)),
        ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 4, 5), (2, 3, 5, 6)),
        ("bqhd,bkhd->bhqk", (2, 4, 3, 5), (2, 6, 3, 5), (2, 3, 4, 5), (2, 3, 5, 6)),
        # one head of keys for all heads of queries: the queries of all heads are rows
        ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 1, 6, 5), (2, 12, 5), (2, 5, 6)),
        ("bi,bi->b", (2, LONG), (2, LONG), (2, 1, LONG), (2, LONG, 1)),
    ],
)
def test_one_matrix_product(subscripts, a, b, left, right, calls, rng):
    a, b = rng.standard_normal(a), rng.standard_normal(b)
    tg.einsum(subscripts, a, b)
    assert [tuple(x.shape for x in pair) for pair in calls["matmul"]] == [(left, right)]
    assert calls["einsum"] == []
    for x in calls["matmul"][0]:  # and no copy of an operand
        assert np.shares_memory(x, a) or np.shares_memory(x, b)


@pytest.mark.parametrize("large", [0, 1])
def test_where_one_operand_has_to_be_copied_it_is_the_smaller(large, calls, rng):
    """Their summed axes lie in memory in opposite orders."""
    rows = [9, 2] if large == 0 else [2, 9]
    a, b = rng.standard_normal((rows[0], 3, 4)), rng.standard_normal((4, 3, rows[1]))
    np.testing.assert_allclose(tg.einsum("ijk,kjl->il", a, b), np.einsum("ijk,kjl->il", a, b))
    [pair] = calls["matmul"]
    assert [np.shares_memory(x, y) for x, y in zip(pair, (a, b), strict=True)] == [
        large == 0,
        large == 1,
    ]


def test_the_way_back_of_a_matrix_product_is_two_of_them(calls, rng):
    a, b = (Tensor(rng.standard_normal(s), requires_grad=True) for s in ((2, 3), (3, 4)))
    tg.einsum("ij,jk->ik", a, b).backward(np.ones((2, 4)))
    assert len(calls["matmul"]) == 3
    assert calls["einsum"] == []


def test_a_broadcast_operand_gets_its_gradient_in_one_product(calls, rng):
    """db sums over the batch inside the product: no (8, 3, 4) of which the sum is taken after."""
    a, b = (Tensor(rng.standard_normal(s), requires_grad=True) for s in ((8, 2, 3), (1, 3, 4)))
    tg.einsum("bij,bjk->bik", a, b).backward(np.ones((8, 2, 4)))
    shapes = {(x.shape, y.shape) for x, y in calls["matmul"]}
    assert ((3, 16), (16, 4)) in shapes


@pytest.mark.parametrize("subscripts", ["i,j->ij", "ij,ij->ij", "bi,bj->bij", "ij,ij->ji"])
def test_without_a_sum_it_multiplies(subscripts, calls, rng):
    inputs = subscripts.split("->")[0].split(",")
    tg.einsum(subscripts, *(rng.standard_normal((3,) * len(term)) for term in inputs))
    assert calls == {"matmul": [], "einsum": []}


@pytest.mark.parametrize(
    ("subscripts", "a", "b"),
    [
        ("ib,ib->b", (3, 100), (3, 100)),
        ("ib,ib->b", (LONG, 100), (LONG, 100)),
        ("ijb,jkb->ikb", (2, 3, 100), (3, 4, 100)),
        ("ibc,ibc->bc", (3, 50, 2), (3, 50, 2)),
        ("cdba,cdba->b", (2, 5, 3, 200), (2, 5, 3, 200)),  # sums of long rows that lie scattered
    ],
)
def test_products_side_by_side_are_left_to_numpys_loops(subscripts, a, b, calls, rng):
    a, b = rng.standard_normal(a), rng.standard_normal(b)
    y = tg.einsum(subscripts, a, b)
    assert calls == {"matmul": [], "einsum": [subscripts]}
    assert_same(y, np.einsum(subscripts, a, b))


def test_a_gpu_has_no_use_for_loops():
    shapes = ((LONG, 100), (LONG, 100))
    assert plan_for_two("ib,ib->b", shapes).way == "loops"
    assert plan_for_two("ib,ib->b", shapes, False).way != "loops"


SIZES = {"b": 2, "t": 3, "s": 4, "d": 5}
MIXED = ["bt,bd->bd", "bt,bt,bd->bd", "bt,bs,btd->bd", "bt,bd->b", "bt,bd,bd->td"]


@pytest.mark.parametrize("subscripts", MIXED)
@pytest.mark.parametrize("narrow", [np.bool_, np.int8, np.uint8, np.int32, np.float32])
@pytest.mark.parametrize("wide", [np.int64, np.float32, np.float64])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_operands_meet_in_the_dtype_of_the_result(subscripts, narrow, wide, as_tensor, rng):
    """In their own, 100 + 100 overflows a byte, and True + True is True."""
    if narrow == np.float32 and wide == np.int64:
        narrow, wide = wide, narrow
    terms = subscripts.split("->")[0].split(",")
    sizes, most = SIZES, {np.bool_: 2, np.int32: 2**31 - 1}.get(narrow, 100)
    xs = [rng.integers(0, most, [sizes[l] for l in t]).astype(narrow) for t in terms[:-1]]
    last = (10 * rng.standard_normal([sizes[l] for l in terms[-1]])).astype(wide)
    exact = np.einsum(subscripts, *(x.astype(np.float64) for x in (*xs, last)))
    size = abs(exact).max()
    if np.dtype(wide).kind != "f":
        exact = np.einsum(subscripts, *(x.astype(wide) for x in (*xs, last)))
        size = 0
    given = [Tensor(x) if as_tensor else x for x in xs]
    y = tg.einsum(subscripts, *given, Tensor(last) if as_tensor else last)
    y = y.numpy() if as_tensor else y
    assert y.dtype == wide
    near = size * (1e-6 if wide == np.float32 else 1e-14)
    np.testing.assert_allclose(y, exact, rtol=0, atol=near)


@pytest.mark.parametrize("subscripts", MIXED)
@pytest.mark.parametrize("narrow", [np.bool_, np.int8, np.float32])
def test_gradients_beside_operands_of_another_dtype(subscripts, narrow, rng):
    terms, output = subscripts.split("->")
    terms, sizes = terms.split(","), SIZES
    xs = [rng.integers(0, 100, [sizes[l] for l in t]).astype(narrow) for t in terms[:-1]]
    last = rng.standard_normal([sizes[l] for l in terms[-1]])
    g = rng.standard_normal([sizes[l] for l in output])
    differ = [Tensor(x, requires_grad=x.dtype.kind == "f") for x in xs]
    ours = Tensor(last, requires_grad=True)
    same = [Tensor(x.astype(np.float64), requires_grad=True) for x in (*xs, last)]
    wanted = [x for x in (*differ, ours) if x.requires_grad]
    for again in (False, True):
        want = tg.grad(tg.einsum(subscripts, *same), same, g, create_graph=again)
        got = tg.grad(tg.einsum(subscripts, *differ, ours), wanted, g, create_graph=again)
        for d, x, w in zip(got, wanted, want[-len(wanted) :], strict=True):
            assert d.dtype == x.dtype
            near = 1e-6 if x.dtype == np.float32 else 1e-13
            np.testing.assert_allclose(d.numpy(), w.numpy(), rtol=near, atol=near)


@pytest.mark.parametrize(
    ("subscripts", "a", "b"),
    [
        ("bi,bi->b", (100, 3), (100, 3)),  # one after the other
        ("ib,bi->b", (3, 100), (100, 3)),
        ("ib,ib->b", (3, 10), (3, 10)),
        ("ijb,jkb->ikb", (50, 50, 16), (50, 50, 16)),  # BLAS is worth the copies
    ],
)
def test_all_others_are_matrix_products(subscripts, a, b, calls, rng):
    tg.einsum(subscripts, rng.standard_normal(a), rng.standard_normal(b))
    assert len(calls["matmul"]) == 1
    assert calls["einsum"] == []


@pytest.mark.parametrize("rows", [LONG, 4])
def test_matrices_scattered_in_memory_are_packed(rows, calls, rng):
    """NumPy 2.0 multiplies them number by number, and so do later ones if they are small."""
    a, b = rng.standard_normal((rows, 4, 5)), rng.standard_normal((3, 4, 5))
    y = tg.einsum("ijb,kjb->ikb", a, b)
    [pair] = calls["matmul"]
    assert all(x.flags.c_contiguous or x.mT.flags.c_contiguous for x in pair)
    np.testing.assert_allclose(y, np.einsum("ijb,kjb->ikb", a, b))


def test_products_of_rows_are_not_packed(calls, rng):
    """To copy the numbers of two scattered rows takes longer than to multiply them."""
    a, b = rng.standard_normal((2, 40, 30, 3, 3))
    y = tg.einsum("dacb,dacb->bc", a, b)
    [pair] = calls["matmul"]
    assert all(np.shares_memory(x, z) for x, z in zip(pair, (a, b), strict=True))
    np.testing.assert_allclose(y, (a * b).sum((0, 1)).T)


@pytest.mark.parametrize("subscripts", ["ij->ji", "ii->i", "iji->ij", "i...->...i"])
def test_one_operand_without_a_sum_is_a_view(subscripts, rng):
    x = rng.standard_normal((3, 3, 3) if len(subscripts) == 7 else (3, 3))
    assert np.shares_memory(tg.einsum(subscripts, x), x)


IN_TURN = [  # what is summed, and what it is multiplied with there: (outer, n, inner)
    ("abcd->bd", (200, 30, 30, 3), [(1, 200, 2700), (30, 30, 3)]),
    ("abcd->db", (200, 30, 30, 3), [(1, 200, 2700), (30, 30, 3)]),
    ("a...d->...d", (200, 30, 30, 3), []),  # the rows are long anyway
    ("abc->ab", (300, 300, 3), [(90000, 3, 1)]),
    ("abcde->ad", (3, 30, 60, 10, 3), [(3, 1800, 30)]),  # b and c are one axis
    ("aabcd->bd", (20, 20, 30, 30, 3), []),  # a diagonal is no axis in memory
    ("abcd->bd", (30, 30, 3, 200), []),
    ("abcd->", (30, 30, 3, 200), []),
    ("abcd->bd", (3, 4, 5, 2), []),  # too few numbers for a second call
    ("abcd->bd", (1, 1, 1, 1), []),
    ("abcd->bd", (0, 3, 5, 2), []),
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int8])
@pytest.mark.parametrize(("subscripts", "shape", "products"), IN_TURN)
@pytest.mark.parametrize("lies", ["in one piece", "turned"])
def test_short_rows_are_summed_by_a_product_with_ones(
    subscripts, shape, products, dtype, lies, calls, rng
):
    assert list(plan_for_one(subscripts, shape).products) == products
    x = (30 * rng.standard_normal(shape)).astype(dtype)
    x = x if lies == "in one piece" else np.asfortranarray(x)
    y = tg.einsum(subscripts, x)
    if lies == "turned" or dtype in (np.float16, np.int8):  # left to NumPy, at once
        assert len(calls["einsum"]) == 1
        assert_same(np.asarray(y), np.asarray(np.einsum(subscripts, x)))
        return
    want = np.einsum(subscripts, x.astype(np.float64))
    assert (y.dtype, y.shape) == (dtype, want.shape)
    tolerance = 1e-9 if dtype == np.float64 else 0.2  # of sums of 10^5 numbers around 30
    np.testing.assert_allclose(y, want, rtol=0, atol=tolerance)


def test_a_product_with_ones_keeps_what_is_not_finite(rng):
    x = rng.standard_normal((200, 30, 30, 3))
    x[3, 4, 5, 0], x[5, 6, 7, 1], x[[1, 2], 8, 7, 2] = np.nan, np.inf, [np.inf, -np.inf]
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(tg.einsum("abcd->bd", x), x.sum((0, 2)), rtol=0, atol=1e-9)


def test_the_labels_of_one_of_two_operands_are_summed_so_too(calls, rng):
    a, b = rng.standard_normal(3), rng.standard_normal((200, 30, 30, 3))
    y = tg.einsum("a,fbda->b", a, b)
    assert [s for s in calls["einsum"] if "f" in s] == []
    np.testing.assert_allclose(y, b.sum((0, 2)) @ a, rtol=1e-9)


def test_a_gpu_sums_all_labels_at_once(cupy, monkeypatch, rng):
    seen, einsum = [], cupy.einsum
    monkeypatch.setattr(cupy, "einsum", lambda s, *xs: (seen.append(s), einsum(s, *xs))[1])
    x = rng.standard_normal((200, 30, 30, 3))
    y = tg.einsum("abcd->bd", cupy.asarray(x))
    assert seen == ["abcd->bd"]
    np.testing.assert_allclose(cupy.asnumpy(y), x.sum((0, 2)), rtol=0, atol=1e-9)


def work(subscripts, *shapes):
    """How many multiplications the schedule needs."""
    total, shapes = 0, list(shapes)
    for i, j, step in schedule(subscripts, tuple(shapes)):
        pair = shapes[i], shapes[j]
        parsed = parse(step, pair)
        total += int(np.prod(list(parsed.sizes.values())))
        shapes = [s for k, s in enumerate(shapes) if k not in (i, j)]
        shapes.append(tuple(parsed.sizes[label] for label in parsed.output))
    return total


def test_more_operands_meet_in_a_good_order():
    n = 100
    assert work("ij,jk,k->i", (n, n), (n, n), (n,)) == 2 * n**2
    assert work("i,ij,jk->k", (n,), (n, n), (n, n)) == 2 * n**2
    assert work("bi,ij,bj->b", (8, n), (n, n), (8, n)) == 8 * n**2 + 8 * n
    assert work("ij,jk,kl,lm->im", (2, n), (n, 2), (2, n), (n, 2)) == 2 * 4 * n + 8
    assert work("a,b,c,abc->", (n,), (n,), (n,), (n, n, n)) == n**3 + n**2 + n


def test_three_operands_are_two_products_forward_and_four_back(calls, rng):
    """The way back uses the product in between again: six would be needed without it."""
    xs = [Tensor(rng.standard_normal(s), requires_grad=True) for s in ((2, 3), (3, 4), (4, 5))]
    y = tg.einsum("ij,jk,kl->il", *xs)
    assert len(calls["matmul"]) == 2
    y.backward(np.ones((2, 5)))
    assert len(calls["matmul"]) == 6
    assert calls["einsum"] == []


@pytest.mark.parametrize(
    ("subscripts", "shapes", "together"),
    [
        ("ab,ba,a->ba", [(5, 2), (2, 5), (5,)], True),  # small
        ("abc,cab,bca->abc", [(30, 20, 10), (10, 30, 20), (20, 10, 30)], True),  # no work is saved
        ("ab,b,cb->abc", [(90, 90), (90,), (90, 90)], False),  # a b first
        ("ab,ba,a->b", [(5, 2), (2, 5), (5,)], False),  # a sum
    ],
)
def test_three_factors_without_a_sum_are_one_product_if_that_is_less_work(
    subscripts, shapes, together, rng
):
    xs = [Tensor(rng.standard_normal(s), requires_grad=True) for s in shapes]
    y = tg.einsum(subscripts, *xs)
    assert at_once(subscripts, tuple(shapes)) == together
    assert (len(y.node.inputs) == 3) == together
    g = rng.standard_normal(y.shape)
    y.backward(g)
    for k, x in enumerate(xs):
        others = [o.data for o in xs[:k] + xs[k + 1 :]]
        terms, output = subscripts.split("->")
        terms = terms.split(",")
        back = f"{','.join([output, *terms[:k], *terms[k + 1 :]])}->{terms[k]}"
        np.testing.assert_allclose(x.grad, np.einsum(back, g, *others), rtol=1e-10, atol=1e-10)


def assert_values_and_gradients(subscripts, shapes, rng):
    """Beside NumPy, which computes each gradient as an einsum of its own."""
    xs = [Tensor(rng.standard_normal(s), requires_grad=True) for s in shapes]
    arrays = [x.data for x in xs]
    y = tg.einsum(subscripts, *xs)
    want = np.einsum(subscripts, *arrays, optimize=True)
    np.testing.assert_allclose(y.data, want, rtol=1e-10, atol=1e-10)
    g = rng.standard_normal(y.shape)
    y.backward(g)
    inputs, output = subscripts.split("->")
    terms = inputs.split(",")
    for k, x in enumerate(xs):
        once = "".join(dict.fromkeys(terms[k]))
        ones = [*arrays[:k], np.ones(x.shape), *arrays[k + 1 :]]
        want = np.einsum(f"{output},{inputs}->{once}", g, *ones, optimize=True)
        got = np.einsum(f"{terms[k]}->{once}", x.grad.numpy())  # of a diagonal: zeros elsewhere
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)
        assert np.count_nonzero(x.grad.numpy()) == np.count_nonzero(want)


IN_BETWEEN = [
    ("abc,cad,db->b", ((40, 3, 50), (50, 40, 30), (30, 3))),  # a matrix product, then a product
    ("c,da,cde->ecd", ((60,), (300, 60), (60, 300, 5))),  # walked along d
    ("acbd,c,abc->dab", ((30, 100, 30, 5), (100,), (30, 30, 100))),  # along c, against NumPy's wish
    ("abc,cb,acb,acb->a", ((40, 3, 40), (40, 3), (40, 40, 3), (40, 40, 3))),
]


@pytest.mark.parametrize(("subscripts", "shapes"), IN_BETWEEN)
def test_what_comes_out_in_between_lies_as_the_next_one_reads_it(subscripts, shapes, rng):
    """Otherwise every product of three would begin with a copy, or walk in the wrong order."""
    rest = [rng.standard_normal(s) for s in shapes]
    for i, j, step in schedule(subscripts, shapes):
        b, a = rest.pop(j), rest.pop(i)
        rest.append(tg.einsum(step, a, b))
        assert rest[-1].flags.c_contiguous or len(rest) == 1


@pytest.mark.parametrize(("subscripts", "shapes"), IN_BETWEEN)
def test_values_and_gradients_of_what_is_walked_in_another_order(subscripts, shapes, rng):
    assert_values_and_gradients(subscripts, shapes, rng)


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("acbae,ebad,bda->bced", ((30, 10, 5, 30, 10), (10, 5, 30, 5), (5, 5, 30))),
        ("acae,ead,da->ced", ((9, 4, 9, 4), (4, 9, 3), (3, 9))),
    ],
)
def test_a_diagonal_counts_once_when_pairs_are_chosen(subscripts, shapes, rng):
    """The first operand is large only off its diagonal: to set it free early frees nothing."""
    assert [step[:2] for step in schedule(subscripts, shapes)] == [(1, 2), (0, 1)]
    assert_values_and_gradients(subscripts, shapes, rng)


def test_what_is_broadcast_counts_as_long_as_it_is():
    assert work("ac,c,b->ac", (10, 10), (1,), (10,)) == 10 + 100


def test_short_rows_are_not_walked_along(rng):
    """60,000 rows of 2 numbers would take ten times as long as 60 of 2,000."""
    a, b = rng.standard_normal((60, 10, 200)), rng.standard_normal(2)
    y = tg.einsum("ebc,a->ebca", a, b)
    assert y.strides[-1] > y.strides[-2] == y.itemsize
    np.testing.assert_array_equal(y, np.einsum("ebc,a->ebca", a, b))


def test_in_which_order_numpy_walksby_itself(rng):
    for _ in range(300):
        sizes = dict(zip("abcd", rng.choice([1, 2, 3], 4).tolist(), strict=True))
        terms = ["".join(rng.permutation(list(sizes))[: rng.integers(1, 5)]) for _ in range(2)]
        output = "".join(rng.permutation(sorted(set("".join(terms)))))
        steps, xs = [], []
        for term in terms:
            x = np.ones([sizes[l] for l in term])
            steps.append({l: n // x.itemsize for l, n in zip(term, x.strides, strict=True)})
            labels = [l for l in output if l in term]
            x = x.transpose([term.index(l) for l in labels])
            xs.append(x[tuple(slice(None) if l in term else None for l in output)])
        strides = dict(zip(output, np.multiply(*xs).strides, strict=True))
        want = sorted((l for l in output if sizes[l] != 1), key=lambda l: -strides[l])
        assert [l for l in by_itself(output, sizes, steps) if sizes[l] != 1] == want


@pytest.mark.parametrize(
    ("subscripts", "shapes", "lies"),
    [
        ("bca,a->cab", ((300, 60, 5), (5,)), "cab"),  # rows of 300 numbers instead of 5
        ("bca,a->cab", ((300, 60, 50), (50,)), "bca"),  # of 50: as NumPy would, who reads in order
        ("bca,a->cba", ((300, 60, 5), (5,)), "cab"),  # neither the output nor NumPy
        # rows of 300 instead of 5, of numbers that lie apart: if the cache holds all of them
        ("ab,bcfa->fbac", ((5, 10), (10, 300, LARGE // 15000, 5)), "fbac"),
        ("ab,bcfa->fbac", ((5, 10), (10, 300, LARGE // 15000 + 1, 5)), "bcfa"),
        ("ba,ac->bca", ((40, 100), (100, 5)), "bca"),  # rows of 100; NumPy's would have 5
        # NumPy does not walk in rows of 2, as the larger one lies: it has e last
        ("baec,ce->ceab", ((300, 2, 200, 2), (2, 200)), "bace"),
        # b would be last in rows of 3; along a both operands are read apart, along c only one
        ("acb,abc->acb", ((40, 40, 3), (40, 3, 40)), "abc"),
    ],
)
def test_a_product_is_walked_in_the_cheapest_order(subscripts, shapes, lies, rng):
    a, b = (rng.standard_normal(s) for s in shapes)
    y = tg.einsum(subscripts, a, b)
    np.testing.assert_array_equal(y, np.einsum(subscripts, a, b))
    output = subscripts.split("->")[1]
    strides = dict(zip(output, y.strides, strict=True))
    assert "".join(sorted(output, key=lambda l: -strides[l])) == lies


def test_what_has_to_be_copied_is_read_in_the_order_of_its_memory():
    """One of 1,000,000 numbers, b first, would be read a hundred times from end to end."""
    plan = plan_for_two("adbc,dacb->ba", ((100, 10, 100, 10), (10, 100, 10, 100)))
    assert plan.left.order == (0, 2, 1, 3)
    assert plan.order == (1, 0)


def test_a_diagonal_is_a_view_whose_numbers_lie_apart(rng):
    """Its 800 rows of 100 have to be copied; an array that lies in one piece has not."""
    d, whole, apart = (100,), (200, 2, 2, 100), (2, 200, 2, 2, 100)
    cost = (
        plan_for_two("d,cecad->eac", (d, apart)).cost - plan_for_two("d,ecad->eac", (d, whole)).cost
    )
    assert 80_000 < cost < 200_000
    assert_values_and_gradients("d,cecad->eac", (d, apart), rng)


def test_strangers_meet_last(rng):
    """What grows by a product should not be read again: bfd takes up eda before c, of which it
    has no label. Two that shrink may meet.
    """
    shapes = ((30,), (200, 5, 10), (3, 10, 1))
    assert [step[:2] for step in schedule("c,bfd,eda->bcedf", shapes)] == [(1, 2), (0, 1)]
    assert work("ac,c,b->ac", (10, 10), (1,), (10,)) == 10 + 100
    assert_values_and_gradients("c,bfd,eda->bcedf", ((4,), (5, 2, 3), (2, 3, 1)), rng)


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("cba,bd->cda", ((2, 3, 2), (3, 5))),
        ("bcd,acd->dba", ((5, 2, 2), (3, 2, 2))),
        ("cdb,ad->cab", ((3, 5, 3), (2, 5))),
    ],
)
def test_what_is_copied_by_its_columns(subscripts, shapes, rng):
    assert plan_for_two(subscripts, shapes).right.flip
    assert_values_and_gradients(subscripts, shapes, rng)


BLAS_LIKES = [
    # the longer side as columns, of which it computes many in a step: 3 rows, not 3 columns
    ("ebcd,ac->bdea", ((30, 10, 2, 300), (3, 2)), (3, 2), (2, 90000)),
    ("faed,bfea->fdab", ((2, 100, 3, 300), (10, 2, 3, 100)), (2, 100, 10, 3), (2, 100, 3, 300)),
    # but a matrix that lies by columns is read faster on the left
    ("cd,ead->cae", ((3, 300), (10, 300, 300)), (3000, 300), (300, 3)),
    ("bda,ebd->ae", ((60, 300, 2), (30, 60, 300)), (30, 18000), (18000, 2)),
    # the product of a layer lies as it is wanted
    ("bti,ij->btj", ((32, 50, 64), (64, 10)), (1600, 64), (64, 10)),
    ("bhqd,bhkd->bhqk", ((2, 4, 64, 32), (2, 4, 99, 32)), (2, 4, 64, 32), (2, 4, 32, 99)),
]


@pytest.mark.parametrize(("subscripts", "shapes", "left", "right"), BLAS_LIKES)
def test_which_operand_stands_on_the_left(subscripts, shapes, left, right, calls, rng):
    tg.einsum(subscripts, *map(rng.standard_normal, shapes))
    assert [tuple(x.shape for x in pair) for pair in calls["matmul"]] == [(left, right)]


@pytest.mark.parametrize(
    ("subscripts", "shapes", "first"),
    [
        # b was summed with c last: from (a, b, c) the rows are a view, from (a, c, b) a copy
        ("acb,b,bc,abc->ba", ((100, 100, 60), (60,), (60, 100), (100, 60, 100)), "acb,abc->abc"),
        # both products of two lie alike, the longest axis last, and are summed in one piece
        (
            "bcda,bacd,acdb,cbda->b",
            ((3, 200, 200, 5), (3, 5, 200, 200), (5, 200, 200, 3), (200, 3, 200, 5)),
            "bcda,bacd->bacd",
        ),
    ],
)
def test_a_product_lies_as_the_next_one_wants_it(subscripts, shapes, first, rng):
    assert schedule(subscripts, shapes)[0][2] == first
    small = tuple(tuple(min(n, 4) for n in shape) for shape in shapes)
    assert_values_and_gradients(subscripts, small, rng)


def test_more_operands_than_numpys_loops_take(rng):
    n = MOST + 2
    xs = [Tensor(rng.standard_normal(2), requires_grad=True) for _ in range(n)]
    y = tg.einsum(",".join("i" * n) + "->i", *xs)
    want = np.prod([x.data for x in xs], axis=0)
    np.testing.assert_allclose(y.data, want, rtol=1e-12)
    y.backward(np.array([2.0, 3.0]))
    for x in xs:
        np.testing.assert_allclose(x.grad.numpy(), [2, 3] * want / x.data, rtol=1e-10)
    assert at_once(",".join("i" * MOST) + "->i", ((2,),) * MOST)
    np.einsum(",".join("i" * MOST) + "->i", *np.ones((MOST, 2)))


def test_a_plan_is_made_once(rng):
    a, b = rng.standard_normal((5, 7)), rng.standard_normal((7, 6))
    tg.einsum("pq,qr->pr", a, b)
    before = plan_for_two.cache_info()
    tg.einsum("pq,qr->pr", b[:5, :5].T[:, :5], b[:5])  # other shapes, another plan
    for _ in range(3):
        tg.einsum("pq,qr->pr", a, b)
    after = plan_for_two.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (3, 1)


# ------------------------------------------------------------------------------------- device


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("bi,bi->b", ((3, LONG), (3, LONG))),
        ("ib,ib->b", ((LONG, 3), (LONG, 3))),
        ("ib,ib->b", ((3, 100), (3, 100))),
        ("ijb,jkb->ikb", ((2, 3, 4), (3, 5, 4))),
        ("ij,jk,kl,lm->im", ((2, 3), (3, 4), (4, 5), (5, 2))),
        (",i,->i", ((), (3,), ())),
        ("iijj->", ((2, 2, 3, 3),)),
    ],
)
def test_on_the_device(subscripts, shapes, cupy, forbid_sync, rng):
    xs = [np.asarray(rng.standard_normal(s)) for s in shapes]
    ours = [Tensor(cupy.asarray(x), requires_grad=True) for x in xs]
    with forbid_sync():
        y = tg.einsum(subscripts, *ours)
        ds = tg.grad(y.sum(), ours)
    np.testing.assert_allclose(cupy.asnumpy(y.data), np.einsum(subscripts, *xs), rtol=1e-10)
    host = [Tensor(x, requires_grad=True) for x in xs]
    want = tg.grad(tg.einsum(subscripts, *host).sum(), host)
    for d, w in zip(ds, want, strict=True):
        np.testing.assert_allclose(cupy.asnumpy(d.data), w.data, rtol=1e-10)


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("subscripts", "shapes", "message"),
    [
        (
            *("ij,jk->ik", ((2, 3), (4, 5))),
            "einsum: 'ij,jk->ik' on (2, 3), (4, 5): label j is 3 in operand 0 and 4 in operand 1: "
            "the sizes of one label should be equal, or 1; other axes need other labels",
        ),
        ("i,i,i", ((1,), (2,), (3,)), "label i is 2 in operand 1 and 3 in operand 2"),
        ("i,i,i", ((2,), (1,), (3,)), "label i is 2 in operand 0 and 3 in operand 2"),
        ("i,i", ((0,), (2,)), "label i is 0 in operand 0 and 2 in operand 1"),
        ("...i,...", ((2, 3), (4,)), "axis -1 of '...' is 2 in operand 0 and 4 in operand 1"),
        ("...,...", ((2, 3), (4, 3)), "axis -2 of '...' is 2 in operand 0 and 4 in operand 1"),
        ("ii", ((2, 3),), "label i is 2 and 3 in operand 0: only axes of one size have a diagonal"),
        ("ii->i", ((1, 3),), "label i is 1 and 3 in operand 0: only axes of one size"),
        ("ij->ik", ((2, 3),), "output label k is in no operand: to add an axis, use expand_dims"),
        ("ij->iji", ((2, 3),), "label i is twice in the output 'iji': to fill a diagonal,"),
        (
            *("ij,jk", ((2, 3),)),
            "einsum: 'ij,jk' on (2, 3): terms for 2 operand(s), but 1 given: write a term for each",
        ),
        ("ij", ((2, 3), (2,)), "terms for 1 operand(s), but 2 given"),
        ("i,j", ((2,), (2,), (2,)), "terms for 2 operand(s), but 3 given"),
        (
            *("i,jk", ((2,), (3,))),
            "operand 1 has 1 axes, (3,), but 'jk' names 2: name every axis, or add '...' for the",
        ),
        ("ij", ((2, 3, 4),), "operand 0 has 3 axes, (2, 3, 4), but 'ij' names 2: name every axis"),
        ("i...j", ((2,),), "operand 0 has 1 axes, (2,), but 'i...j' names 2: name every axis"),
        (
            *("...i->i", ((2, 3),)),
            "the output 'i' leaves out '...', which stands for 1 of the axes: write it there too",
        ),
        ("..i", ((2,),), "'..i': an ellipsis is three dots, and at most one a term"),
        ("...i...", ((2,),), "'...i...': an ellipsis is three dots, and at most one a term"),
        ("i->......", ((2,),), "'......': an ellipsis is three dots, and at most one a term"),
        ("i1", ((2, 3),), "'1' in 'i1' is no label: write letters, '...', a comma between"),
        ("é", ((2,),), "'é' in 'é' is no label"),
        ("ij-ji", ((2, 3),), "'-' in 'ij-ji' is no label"),
        ("i->i->i", ((2,),), "'-' in 'i->i' is no label: write letters, '...', a comma between "
         "operands, and at most one '->'"),
        ("ij->i,j", ((2, 3),), "',' in 'i,j' is no label"),
    ],
)  # fmt: skip
def test_errors(subscripts, shapes, message):
    with pytest.raises(ValueError, match=r"^einsum: ") as error:
        tg.einsum(subscripts, *(Tensor(np.zeros(s), requires_grad=True) for s in shapes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_letter_is_left_for_an_ellipsis():
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    with pytest.raises(
        ValueError, match=r"1 axes behind '\.\.\.' are too many: 0 letters are free"
    ):
        tg.einsum(letters + "...", np.zeros((1,) * 53))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: tg.einsum(x, x),
        lambda x: tg.einsum(x, x, x),
        lambda x: tg.einsum("ij"),
        lambda x: tg.einsum(),
        lambda x: tg.einsum("ij", x, optimize=True),
        lambda x: tg.einsum("ij,ij,ij", x, x, x, optimize=True),
        lambda x: tg.einsum(x, [0, 1]),
        lambda x: tg.einsum(x, subscripts=None),
    ],
)
def test_subscripts_come_first(call):
    with pytest.raises(
        TypeError, match=r"^einsum: write the subscripts, then the arrays, and nothi"
    ):
        call(np.zeros((2, 2)))


def test_a_string_is_no_operand():
    with pytest.raises(TypeError, match=r"^einsum: cannot compute with str; pass a Tensor"):
        tg.einsum("i,i", "a", np.zeros(2))
    with pytest.raises(TypeError, match=r"^einsum: cannot compute with str; pass a Tensor"):
        tg.einsum("i", np.zeros(2), subscripts="i")
