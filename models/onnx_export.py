"""A trained classifier as one ONNX file, which other programs run without Python.

The graph is made of standard operators of opset 17, float32 inside, and needs onnxruntime or any
other runtime that knows them. One function a layer says how that layer is written in them; the
specification of each is the page of the operators it uses, at onnx.ai/onnx/operators.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mha import nn
from tinygrad_mha.backend import to_host

from .encoder_classifier import EncoderClassifier
from .errors import InputError
from .files import write_whole
from .fine_tuned import FineTunedClassifier
from .lora import LoraLinear
from .multi_head_attention import MultiHeadAttention
from .text import LONGEST_RUN_OF_MARKS, SAME_TOKEN, token_pattern
from .text_classifier import TextClassifier
from .trained import FINE_TUNED, FORMAT, TrainedClassifier
from .transformer import TransformerBlock, TransformerEncoder

# Opset 17 is the first with LayerNormalization; 8 is the file format of that time, which every
# runtime since 2022 reads. (The onnx package would write its own newest, and older ones refuse.)
OPSET, FILE_FORMAT = 17, 8
LIMIT = 2**31 - 2**20  # bytes: protobuf's 2 GB, less room for everything but the weights
ONNX_GATES = (0, 3, 1, 2)  # ONNX's i o f c in PyTorch's (and our) i f g o

Name: TypeAlias = str  # of a value in the graph


def export(
    model: TextClassifier | EncoderClassifier | TrainedClassifier, path: str | os.PathLike[str]
) -> None:
    """Write a classifier to an ONNX file, as it answers in evaluation mode.

    ids: (B, T) int64    lengths: (B,) int64    logits, probabilities: (B, classes) float32

    B and T are free, 0 included. ``lengths`` are the numbers of real tokens, between 0 and T;
    nothing depends on the ids behind them. A text of length 0 is scored by the last bias alone.

    Parameters
    ----------
    model : TextClassifier, EncoderClassifier, TrainedClassifier or FineTunedClassifier
        In whatever mode, dtype and on whatever device; it is not changed. Of a trained one the
        file also holds what it takes to answer for texts: see :func:`metadata_of`.
    path : str or path
        The file is written whole or not at all.

    Raises
    ------
    InputError
        If the package ``onnx`` is missing, or the weights are too large for one file (2 GB).
    TypeError
        If the model, or a layer of it, is none that this file can write.

    Examples
    --------
    >>> import onnxruntime  # doctest: +SKIP
    >>> model = TextClassifier(vocab_size=100, d_model=16, num_classes=3)
    >>> export(model, "classifier.onnx")  # doctest: +SKIP
    >>> session = onnxruntime.InferenceSession("classifier.onnx")  # doctest: +SKIP
    >>> texts = {"ids": np.array([[5, 7, 2], [9, 0, 0]]), "lengths": np.array([3, 1])}
    >>> [logits] = session.run(["logits"], texts)  # doctest: +SKIP
    >>> ours = model.eval()(texts["ids"], texts["lengths"]).numpy()
    >>> bool(np.allclose(logits, ours, rtol=0, atol=1e-5))  # doctest: +SKIP
    True
    """
    net: Any = model
    metadata = {}
    if isinstance(model, TrainedClassifier):
        net, metadata = model.model, metadata_of(model)
    write = ARCHITECTURES.get(type(net))
    if write is None:
        known = " and ".join(kind.__name__ for kind in ARCHITECTURES)
        raise TypeError(f"{type(net).__name__} cannot be exported to ONNX; {known} can")
    graph = Graph(net)
    write(graph, net)
    write_whole(graph.to_bytes(metadata, str(path)), Path(path))


def export_folder(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write the model in a folder that ``train`` or ``finetune`` made to an ONNX file.

    Parameters and errors: those of :func:`export`, and of :meth:`TrainedClassifier.load`.
    """
    _onnx()  # what is missing is told before a large model is read
    export(TrainedClassifier.load(folder, device="cpu"), path)


def metadata_of(trained: TrainedClassifier) -> dict[str, str]:
    """What turns texts into ids, and scores into labels: the file's ``metadata_props``, all text.

    ``labels`` is a JSON list in the order of the scores, ``max_len`` the number of tokens that are
    kept of a text. ``vocabulary`` is a JSON list of the tokens, each at the place of its id; any
    other token has the id 1. ``cutting`` says in words how a text becomes tokens, as
    :func:`tinygrad_mha.models.text.tokenize` does it by ``level``; for words, ``pattern`` is the
    regular expression of a token. A fine-tuned encoder has ``tokenizer`` in the place of all these,
    a file of the library tokenizers.

    >>> from .text import Vocabulary
    >>> config = {"level": "char", "max_len": 9, "d_model": 8}
    >>> trained = TrainedClassifier(TextClassifier(3, 8, 2), Vocabulary(["e"]), ["a", "b"], config)
    >>> metadata_of(trained)["vocabulary"], metadata_of(trained)["max_len"]
    ('["<pad>", "<unk>", "e"]', '9')
    """
    told = {"labels": json.dumps(trained.labels), "max_len": str(trained.config["max_len"])}
    vocabulary: Any = trained.vocabulary
    if isinstance(trained, FineTunedClassifier):
        return {"format": FINE_TUNED, **told, "tokenizer": vocabulary.json}
    level, tokens = trained.config["level"], json.dumps(vocabulary.tokens)
    return {"format": FORMAT, **told, "level": level, "vocabulary": tokens, **cutting_of(level)}


def cutting_of(level: str) -> dict[str, str]:
    """How :func:`tinygrad_mha.models.text.tokenize` cuts a text, for whom has no Python.

    >>> cutting_of("char")["cutting"].split("; ")[-2:]
    ['normalise to NFC', 'every character (code point) is a token.']
    """
    steps = [
        "Lone surrogates become U+FFFD",
        f"of a run of combining marks (general category M) only {LONGEST_RUN_OF_MARKS} are kept",
        "normalise to NFC",
    ]
    if level == "char":
        return {"cutting": "; ".join([*steps, "every character (code point) is a token."])}
    for old, new in SAME_TOKEN.items():
        steps.append(f"U+{old:04X} " + (f"becomes {new}" if new else "is removed"))
    steps.append("apply Unicode's full case folding")
    steps.append("normalise to NFC again")
    steps.append(
        "the tokens are the matches of `pattern` from left to right, in the syntax of Python's "
        r"module re, where \w and \s are Unicode's."
    )
    return {"cutting": "; ".join(steps), "pattern": token_pattern().pattern}


# -------------------------------------------------------------------------------- the collector


class Graph:
    """Collects what an ONNX graph consists of: nodes, arrays, inputs and outputs.

    Calling it adds a node and returns the name of what the node computes. It needs the package
    ``onnx`` only in the end, for :meth:`to_bytes`.

    Parameters
    ----------
    model : Module, optional
        Its parameters keep their names.

    Examples
    --------
    >>> g = Graph()
    >>> x = g.input("x", np.float32, ("batch", 3))
    >>> g.output("y", np.float32, ("batch", 3), g("Relu", g("Sub", x, np.float32(1))))
    >>> for kind, inputs, outputs, attributes in g.nodes:
    ...     print(outputs, "=", kind, inputs, attributes)
    ['Sub_0'] = Sub ['x', 'constant_0'] {}
    ['Relu_1'] = Relu ['Sub_0'] {}
    ['y'] = Identity ['Relu_1'] {}
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        named = model.named_parameters() if model is not None else []
        self.names = {id(p): name for name, p in named}
        self.nodes: list[tuple[str, list[Name], list[Name], dict[str, Any]]] = []
        self.arrays: dict[Name, np.ndarray] = {}
        self.inputs: list[tuple[Name, Any, tuple]] = []
        self.outputs: list[tuple[Name, Any, tuple]] = []
        self._constants: dict[tuple, Name] = {}

    def __call__(self, kind: str, *inputs: Any, **attributes: Any) -> Name:
        """Add a node; its inputs are names or arrays, None for one that is left out."""
        output = f"{kind}_{len(self.nodes)}"
        names = [self._name(x) for x in inputs]
        self.nodes.append((kind, names, [output], attributes))
        return output

    def _name(self, x: Any) -> Name:
        if x is None:
            return ""
        if isinstance(x, str):
            return x
        a = np.asarray(x)
        key = a.dtype, a.shape, a.tobytes()
        if key not in self._constants:
            self._constants[key] = self.array(a, f"constant_{len(self._constants)}")
        return self._constants[key]

    def array(self, a: np.ndarray, name: Name) -> Name:
        """A constant under a name of its own; floats become float32."""
        if a.dtype.kind == "f":
            a = a.astype(np.float32)
        self.arrays[name] = np.ascontiguousarray(a) if a.ndim else a
        return name

    def weight(self, p: nn.Parameter, transposed: bool = False) -> Name:
        """A parameter under the name it has in the model, ``.T`` behind it if transposed."""
        name = self.names.get(id(p), f"weight_{len(self.arrays)}") + (".T" if transposed else "")
        a = to_host(p.data)
        return name if name in self.arrays else self.array(a.T if transposed else a, name)

    def input(self, name: Name, dtype: Any, shape: tuple) -> Name:
        """An input of the whole graph; an axis that may have any length has a name."""
        self.inputs.append((name, dtype, shape))
        return name

    def output(self, name: Name, dtype: Any, shape: tuple, x: Name) -> None:
        """Hand out a value under a name for the world outside."""
        self.nodes.append(("Identity", [x], [name], {}))
        self.outputs.append((name, dtype, shape))

    def to_bytes(self, metadata: Mapping[str, str] | None = None, source: str = "") -> bytes:
        """The file's content, checked; ``source`` is the file's name, for messages."""
        size = sum(a.nbytes for a in self.arrays.values())
        if size > LIMIT:
            raise InputError(
                f"the weights take {size / 1e9:.1f} GB, and an ONNX file may have 2; "
                "train a smaller model: a larger --min-count or a smaller --d-model",
                source=source or None,
            )
        onnx = _onnx()
        make, kind_of = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype

        def ends(values: list[tuple[Name, Any, tuple]]) -> list[Any]:
            return [make.make_tensor_value_info(n, kind_of(np.dtype(t)), s) for n, t, s in values]

        model = make.make_model(
            make.make_graph(
                [make.make_node(kind, x, y, name=y[0], **more) for kind, x, y, more in self.nodes],
                "tinygrad_mha",
                ends(self.inputs),
                ends(self.outputs),
                [onnx.numpy_helper.from_array(a, name) for name, a in self.arrays.items()],
            ),
            opset_imports=[make.make_opsetid("", OPSET)],
            ir_version=FILE_FORMAT,
            producer_name="tinygrad_mha",
        )
        make.set_model_props(model, dict(metadata or {}))
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)


def _onnx() -> Any:
    try:
        return importlib.import_module("onnx")
    except ImportError as e:
        if e.name is not None and e.name.split(".")[0] != "onnx":
            raise  # it is there, and something else is wrong
        raise InputError(
            "writing ONNX files needs the package onnx: pip install 'tinygrad_mha[onnx]'"
        ) from None


# ------------------------------------------------------------------------------------ the layers


def _exactly(layer: Any, kind: type) -> Any:
    """A layer that is more than its class (with an adapter, say) would lose what it has more."""
    if type(layer) is not kind:
        raise TypeError(f"{type(layer).__name__} cannot be exported to ONNX; {kind.__name__} can")
    return layer


def linear(g: Graph, layer: nn.Linear, x: Name) -> Name:
    """y = x Wᵀ + b.  x: (..., in), y: (..., out).  Operators: MatMul, Add."""
    if isinstance(layer, LoraLinear):
        layer = layer.merged()
    _exactly(layer, nn.Linear)
    y = g("MatMul", x, g.weight(layer.weight, transposed=True))
    return y if layer.bias is None else g("Add", y, g.weight(layer.bias))


def embedding(g: Graph, layer: nn.Embedding, ids: Name) -> Name:
    """The row of each id.  ids: (...) int64, y: (..., d).  Operator: Gather."""
    return g("Gather", g.weight(_exactly(layer, nn.Embedding).weight), ids, axis=0)


def layer_norm(g: Graph, layer: nn.LayerNorm, x: Name) -> Name:
    """Rows of mean 0 and variance 1, scaled and shifted.  Operator: LayerNormalization."""
    weights = [g.weight(p) for p in (_exactly(layer, nn.LayerNorm).weight, layer.bias)]
    return g("LayerNormalization", x, *weights, axis=-layer.weight.ndim, epsilon=float(layer.eps))


def gelu(g: Graph, x: Name) -> Name:
    """y = x Φ(x) = x/2 (1 + erf(x/√2)).  Operators: Mul, Erf, Add (Gelu is of opset 20)."""
    bent = g("Add", g("Erf", g("Mul", x, np.float32(0.5**0.5))), np.float32(1))
    return g("Mul", g("Mul", x, np.float32(0.5)), bent)


def gelu_tanh(g: Graph, x: Name) -> Name:
    """y = x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).  Operators: Mul, Add, Tanh."""
    cube = g("Mul", g("Mul", g("Mul", x, x), x), np.float32(0.044715))
    bent = g("Tanh", g("Mul", g("Add", x, cube), np.float32((2 / np.pi) ** 0.5)))
    return g("Mul", g("Mul", x, np.float32(0.5)), g("Add", bent, np.float32(1)))


ACTIVATIONS: dict[str, Callable[[Graph, Name], Name]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": lambda g, x: g("Relu", x),
}


def lstm(g: Graph, layer: nn.LSTM, x: Name, lengths: Name) -> Name:
    """All layers and directions, from zero states; y is zero at the pads.  Operator: LSTM.

    x: (T, B, input_size)    lengths: (B,) int64    y: (T, B, D · hidden_size)

    Lengths are at least 1, as the specification says nothing of 0. The steps come first whatever
    ``layer.batch_first`` says, the operator's only order in onnxruntime.
    """
    _exactly(layer, nn.LSTM)
    n, steps = layer.hidden_size, g("Cast", lengths, to=_INT32)
    way = "bidirectional" if layer.bidirectional else "forward"
    for k in range(layer.num_layers):
        name = g.names.get(id(getattr(layer, f"weight_ih_l{k}")), f"weight_ih_l{k}")
        arrays = [
            g.array(a, name.replace("weight_ih", what))  # rnn.W_l0
            for what, a in lstm_weights(layer, k).items()
        ]
        bias = arrays[2] if layer.bias else None
        x = g("LSTM", x, *arrays[:2], bias, steps, hidden_size=n, direction=way)  # (T, D, B, n)
        shape = np.array([0, 0, layer.directions * n])
        x = g("Reshape", g("Transpose", x, perm=[0, 2, 1, 3]), shape)
    return x


def lstm_weights(layer: nn.LSTM, k: int) -> dict[str, np.ndarray]:
    """Those of layer k as ONNX has them: W (D, 4n, width), R (D, 4n, n) and B (D, 8n) if any.

    >>> layer = nn.LSTM(1, 1)
    >>> layer.load_state_dict({
    ...     "weight_ih_l0": [[1.0], [2.0], [3.0], [4.0]], "weight_hh_l0": np.zeros((4, 1)),
    ...     "bias_ih_l0": [1.0, 2.0, 3.0, 4.0], "bias_hh_l0": [5.0, 6.0, 7.0, 8.0],
    ... })
    ([], [])
    >>> lstm_weights(layer, 0)["W"].ravel(), lstm_weights(layer, 0)["B"].astype(int)
    (array([1., 4., 2., 3.], dtype=float32), array([[1, 4, 2, 3, 5, 8, 6, 7]]))
    """

    def stacked(what: str) -> np.ndarray:
        ways = [np.split(to_host(getattr(layer, what + way).data), 4) for way in layer._names(k)]
        return np.stack([np.concatenate([gates[i] for i in ONNX_GATES]) for gates in ways])

    arrays = {"W": stacked("weight_ih"), "R": stacked("weight_hh")}
    if layer.bias:
        arrays["B"] = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1)
    return arrays


def attention(
    g: Graph,
    layer: MultiHeadAttention,
    query: Name,
    key: Name | None = None,
    value: Name | None = None,
    mask: Name | None = None,
) -> Name:
    """Heads, residual and norm.  Operators: MatMul, Reshape, Transpose, Where, Softmax.

    query, y: (B, Tq, d)    key, value: (B, Tk, ·)    mask: bool, broadcasts to (B, h, Tq, Tk)

    Whoever may attend to nothing gets zeros from the heads. The scores are all there at once,
    h · Tq · Tk of them for each text.
    """
    h, x = _exactly(layer, MultiHeadAttention).h, query
    if layer.norm_first:
        query = layer_norm(g, layer.layer_norm, query)
    key = query if key is None else key
    value = key if value is None else value

    def heads(projection: nn.Linear, x: Name, perm: list[int]) -> Name:
        width = projection.weight.shape[0] // h
        y = g("Reshape", linear(g, projection, x), np.array([0, 0, h, width]))
        return g("Transpose", y, perm=perm)

    scale = np.float32((layer.w_q.weight.shape[0] // h) ** -0.5)
    q = g("Mul", heads(layer.w_q, query, [0, 2, 1, 3]), scale)  # (B, h, Tq, d_k)
    k = heads(layer.w_k, key, [0, 2, 3, 1])  # (B, h, d_k, Tk)
    v = heads(layer.w_v, value, [0, 2, 1, 3])  # (B, h, Tk, d_v)
    scores = g("MatMul", q, k)
    if mask is None:
        p = g("Softmax", scores, axis=-1)
    else:  # a row of nothing but -inf becomes NaN, and then zeros
        p = g("Softmax", g("Where", mask, scores, np.float32(-np.inf)), axis=-1)
        p = g("Where", mask, p, np.float32(0))
    y = g("Transpose", g("MatMul", p, v), perm=[0, 2, 1, 3])  # (B, Tq, h, d_v)
    y = g("Reshape", y, np.array([0, 0, layer.w_v.weight.shape[0]]))
    y = g("Add", linear(g, layer.fc_out, y), x)
    return y if layer.norm_first else layer_norm(g, layer.layer_norm, y)


def transformer_block(g: Graph, block: TransformerBlock, x: Name, mask: Name) -> Name:
    """Attention, then two linear layers, each with residual and norm.  x, y: (B, T, d)."""
    x = attention(g, _exactly(block, TransformerBlock).multihead_attn, x, mask=mask)
    y = layer_norm(g, block.layer_norm, x) if block.norm_first else x
    y = ACTIVATIONS[block.activation](g, linear(g, block.linear1, y))
    y = g("Add", linear(g, block.linear2, y), x)
    return y if block.norm_first else layer_norm(g, block.layer_norm, y)


# ----------------------------------------------------------------------------- the architectures


def text_inputs(g: Graph) -> tuple[Name, Name, Name]:
    """The inputs of every classifier.

    Returns
    -------
    ids : (B', T') int64
        With a row and a column at least: on no rows onnxruntime's LSTM ends the whole process.
    lengths : (B',) int64
    rows : (1,) int64
        B.
    """
    ids = g.input("ids", np.int64, ("batch", "steps"))
    lengths = g.input("lengths", np.int64, ("batch",))
    rows = g("Shape", ids, end=1)
    missing = g("Max", g("Sub", np.array([1, 1]), g("Shape", ids)), np.array(0))  # (2,)
    ids = g("Pad", ids, g("Concat", np.array([0, 0]), missing, axis=0), np.array(0))
    missing = g("Slice", missing, np.array([0]), np.array([1]))
    lengths = g("Pad", lengths, g("Concat", np.array([0]), missing, axis=0), np.array(0))
    return ids, lengths, rows


def tokens(g: Graph, ids: Name, lengths: Name) -> Name:
    """(B, T) bool: the first ``lengths`` (B,) places of each text."""
    steps = g("Squeeze", g("Shape", ids, start=1), np.array([0]))
    places = g("Range", np.array(0), steps, np.array(1))
    return g("Less", places, g("Unsqueeze", lengths, np.array([1])))


def scores(g: Graph, logits: Name, rows: Name, classes: int) -> None:
    """The outputs ``logits`` and ``probabilities``, without the row that an empty batch got."""
    logits = g("Slice", logits, np.array([0]), rows, np.array([0]))
    g.output("logits", np.float32, ("batch", classes), logits)
    g.output("probabilities", np.float32, ("batch", classes), g("Softmax", logits, axis=-1))


def pooled(g: Graph, how: str, x: Name, lengths: Name, real: Name) -> Name:
    """(B, T, d) -> (B, d): the mean or the maximum of the ``real`` tokens, or the last of them.

    ``lengths`` are at least 1.
    """
    column = np.array([1])  # the axis that is put in, or taken out
    if how == "mean":
        count = g("Unsqueeze", g("Cast", lengths, to=_FLOAT), column)
        total = g("MatMul", g("Unsqueeze", g("Cast", real, to=_FLOAT), column), x)  # (B, 1, d)
        return g("Div", g("Squeeze", total, column), count)
    if how == "max":
        inside = g("Unsqueeze", real, np.array([2]))
        return g("ReduceMax", g("Where", inside, x, np.float32(-np.inf)), axes=[1], keepdims=0)
    last = g("Unsqueeze", g("Sub", lengths, np.array(1)), column)
    return g("GatherND", x, last, batch_dims=1)


def text_classifier(g: Graph, model: TextClassifier) -> None:
    """:class:`TextClassifier`, from ids to scores."""
    ids, lengths, rows = text_inputs(g)
    # an empty text counts as one pad on the way, so that there is something to attend to
    some = g("Max", lengths, np.array(1))
    real = tokens(g, ids, some)
    x = embedding(g, model.embedding, g("Transpose", ids, perm=[1, 0]))  # (T, B, d)
    x = g("Transpose", lstm(g, model.rnn, x, some), perm=[1, 0, 2])  # (B, T, d)
    x = attention(g, model.multihead_attn, x, mask=g("Unsqueeze", real, np.array([1, 2])))
    x = pooled(g, model.pooling, x, some, real)  # (B, d)
    any_at_all = g("Unsqueeze", g("Greater", lengths, np.array(0)), np.array([1]))
    x = g("Where", any_at_all, x, np.float32(0))
    scores(g, linear(g, model.fc, x), rows, model.fc.weight.shape[0])


def transformer_encoder(g: Graph, encoder: TransformerEncoder, ids: Name, real: Name) -> Name:
    """:class:`TransformerEncoder`, all tokens of kind 0.  ids, real: (B, T), y: (B, T, d)."""
    _exactly(encoder, TransformerEncoder)
    places = to_host(encoder.position_embeddings.weight.data)
    if encoder.token_type_embeddings is not None:
        places = places + to_host(encoder.token_type_embeddings.weight.data)[0]
    steps = g("Shape", ids, start=1)
    x = embedding(g, encoder.word_embeddings, ids)
    # too long a text fails here: it has more rows than there are places
    x = g("Add", x, g("Slice", g.array(places, "places"), np.array([0]), steps))
    x = x if encoder.norm_first else layer_norm(g, encoder.layer_norm, x)
    mask = g("Unsqueeze", real, np.array([1, 2]))
    for block in encoder.layers:
        x = transformer_block(g, block, x, mask)
    return layer_norm(g, encoder.layer_norm, x) if encoder.norm_first else x


def encoder_classifier(g: Graph, model: EncoderClassifier) -> None:
    """:class:`EncoderClassifier`, from ids to scores."""
    ids, lengths, rows = text_inputs(g)
    real = tokens(g, ids, lengths)
    x = transformer_encoder(g, model.encoder, ids, real)
    if model.pooling == "cls":
        x = g("Gather", x, np.array(0), axis=1)
    else:
        x = pooled(g, "mean", x, g("Max", lengths, np.array(1)), real)
    scores(g, linear(g, model.fc, x), rows, model.fc.weight.shape[0])


_FLOAT, _INT32 = 1, 6  # TensorProto.FLOAT and INT32

# what can be exported, and the function that writes it
ARCHITECTURES: dict[type, Callable[[Graph, Any], None]] = {
    TextClassifier: text_classifier,
    EncoderClassifier: encoder_classifier,
}
