"""The one table of PyTorch's operations: what each does to the elements of a tensor, and what the scan uses it for.

Names are those of `torch.ops.aten`, without the underscore of the in-place form, and one name for operations that are
the same: `torch.multiply(a, b)` and `a.mul_(b)` both stand here as `mul`. What stands in no row is `opaque`: the scan
does not look into it, and its result counts as a network's output if a parameter had a part in it.

    kind          the result                                      example, and how the scan goes back through it
    elementwise   each element is computed of one element each    exp: recorded as a step of the scale
    shape         the same elements, elsewhere                    chunk: skipped, what was cut out is remembered
    reduction     elements added up                               sum: part of a loss; of equal elements a multiple
    normal_noise  drawn from a Normal                             randn_like: what it is multiplied by is a scale
    discrete      says which, not how much                        argmax: no gradient comes through it
    opaque        everything else                                 convolution: here the way back ends
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

OpKind = Literal["elementwise", "shape", "normal_noise", "reduction", "discrete", "opaque"]

Property = Literal[
    # of arithmetic
    "adds",  # a ± b
    "multiplies",  # a b, a / b
    "linear",  # an expression of these alone has no curvature, so it is no Gaussian term
    "completes",  # the last step of a log density or a KL, whose parts it adds up
    "power",  # v², by which squared differences are known
    "monomial",  # ± c vᵏ: what may stand around the difference of a squared difference
    "exponential",  # eᵛ, of which a density that is no log density is made
    "cdf",  # the distribution function Φ of a Normal, up to constants
    "rounds",  # steps: what is computed of its result has no curvature along its operand
    "activates",  # what networks have behind a layer
    "limits",  # leaves values inside of its bounds as they are
    "keeps_noise",  # noise that is multiplied by a constant, truncated or masked is still fresh noise
    "chooses",  # by a mask, between two values
    "picks_by_chance",  # a draw of zeros and ones, or of a class
    "compares",  # gives a mask, which is computed again when an expression is evaluated
    # of moves
    "permutes",  # dimensions change places
    "broadcasts",  # elements are repeated as arithmetic with a larger tensor would repeat them
    "copies",  # every element stays in its place
    "repeats",  # elements are repeated along a dimension
    "shuffles",  # elements are picked in an order that ranges of dimensions cannot say in general
    "narrows",  # a range of one dimension is kept
    "selects",  # one place of one dimension is kept, and the dimension dropped
    "joins",  # tensors are put beside each other
    "writes_part",  # a part of a tensor is replaced
    "writes_picked",  # so is what indices or a mask pick
    "writes_third",  # and what is written is the third argument, not the fourth
    # of memory
    "overwrites",  # in place, it leaves nothing of what was there
    "literal",  # what `torch.tensor` makes of numbers
    # of noise
    "scales_noise",  # the noise is drawn and scaled in one
    # of sums
    "statistic",  # how far elements lie from each other, or from zero
    "shares",  # each element is its share of a whole, so that it depends on all others
    "runs",  # each element is a total of those before it
    # of layers
    "product",  # a product with a matrix of weights
    "convolution",
    "normalization",
    "combines",  # with one operand that no parameter reaches (a mask) it moves and repeats the other's elements
    "keeps_channels",  # a layer may do it between its arithmetic and its return: channels stay where they are
    "channels_last",  # a layer that ends in it has its channels along the last dimension
]


class Row(NamedTuple):
    """Operations of one kind that have the same properties."""

    kind: OpKind
    names: tuple[str, ...]
    properties: frozenset[Property]


def _row(kind: OpKind, names: str, *properties: Property) -> Row:
    return Row(kind, tuple(names.split()), frozenset(properties))


TABLE: tuple[Row, ...] = (
    # --- arithmetic: one element of the result from one element of each operand ---
    # a Linear on transposed inputs adds its bias in a step apart, so its output is an `add` with channels last
    _row("elementwise", "add", "adds", "linear", "completes", "channels_last"),
    _row("elementwise", "sub", "adds", "linear", "completes"),
    _row("elementwise", "rsub", "linear", "completes"),
    _row("elementwise", "addcmul addcdiv", "completes"),
    _row("elementwise", "mul div", "multiplies", "linear", "monomial", "keeps_noise"),
    _row("elementwise", "neg", "linear", "monomial"),
    _row("elementwise", "pow square", "power", "monomial"),
    _row("elementwise", "abs sqrt rsqrt reciprocal sign copysign hypot lerp"),
    # exponentials and logarithms
    _row("elementwise", "exp", "exponential"),
    _row("elementwise", "exp2 expm1 log log1p log2 log10 logaddexp logaddexp2 xlogy"),
    # activations
    _row("elementwise", "softplus sigmoid log_sigmoid log_sigmoid_forward tanh relu relu6 elu selu celu", "activates"),
    _row("elementwise", "leaky_relu prelu _prelu_kernel silu gelu mish threshold hardsigmoid hardswish", "activates"),
    _row("elementwise", "hardshrink softshrink", "activates"),
    _row("elementwise", "logit"),
    # limits, masks and choices
    _row("elementwise", "clamp", "limits", "keeps_noise"),
    _row("elementwise", "clamp_min clamp_max hardtanh maximum minimum", "limits"),
    _row("elementwise", "masked_fill", "chooses", "keeps_noise"),
    _row("elementwise", "where", "chooses"),
    _row("elementwise", "fmax fmin nan_to_num logical_not"),
    # rounding
    _row("elementwise", "floor ceil round trunc", "rounds"),
    _row("elementwise", "frac fmod remainder"),
    # functions of trigonometry and of probability
    _row("elementwise", "sin cos tan sinh cosh asin acos atan asinh acosh atanh atan2 lgamma digamma"),
    _row("elementwise", "erf erfc special_erf special_erfc special_ndtr", "cdf"),
    # --- moves: the result has the elements of its operand, or some of them ---
    _row("shape", "view _unsafe_view reshape _reshape_alias squeeze unsqueeze", "keeps_channels"),
    _row("shape", "flatten unflatten view_as"),
    _row("shape", "permute transpose t movedim", "permutes"),
    _row("shape", "expand expand_as broadcast_tensors", "repeats", "broadcasts"),
    _row("shape", "repeat", "repeats"),
    _row("shape", "flip roll rot90 gather index index_select take as_strided unfold repeat_interleave", "shuffles"),
    _row("shape", "split split_with_sizes chunk slice narrow", "narrows"),
    _row("shape", "select unbind", "selects"),
    _row("shape", "cat stack", "joins"),
    _row("shape", "slice_scatter select_scatter", "writes_part"),
    _row("shape", "index_copy scatter", "writes_picked"),
    _row("shape", "index_put masked_scatter", "writes_picked", "writes_third"),
    _row("shape", "diagonal diag_embed constant_pad_nd pad"),
    # the same elements in other memory, of another type, or for another reader
    _row("shape", "clone contiguous detach alias _to_copy to positive", "copies"),
    _row("shape", "copy", "copies", "overwrites"),
    _row("shape", "lift lift_fresh lift_fresh_copy", "copies", "literal"),
    _row("shape", "real _conj resolve_conj resolve_neg", "copies"),
    # --- draws of Normal noise ---
    _row("normal_noise", "randn randn_like"),
    _row("normal_noise", "normal", "scales_noise", "overwrites"),
    _row("normal_noise", "normal_functional", "scales_noise"),
    # --- sums ---
    _row("reduction", "sum mean"),
    # --- answers that carry no gradient ---
    _row("discrete", "eq ne lt le gt ge logical_and logical_or logical_xor", "compares"),
    _row("discrete", "isnan isinf isfinite bitwise_and bitwise_or bitwise_not any all"),
    _row("discrete", "argmax argmin argsort bucketize searchsorted nonzero one_hot"),
    _row("discrete", "bernoulli multinomial", "picks_by_chance"),
    # --- constants ---
    _row("opaque", "fill zero", "overwrites"),
    # --- statistics: of values that are there, and no network's output ---
    _row("opaque", "std var std_mean var_mean cov linalg_vector_norm", "statistic"),
    _row("opaque", "_softmax _log_softmax softmax log_softmax _safe_softmax", "shares"),
    _row("opaque", "cumsum cumprod logcumsumexp", "runs"),
    # --- layers: the scan does not look into these, but tells which dimension their channels are in ---
    _row("opaque", "addmm linear mv addmv", "product", "channels_last"),
    _row("opaque", "mm bmm", "product", "channels_last", "combines", "keeps_channels"),
    _row("opaque", "baddbmm", "product", "channels_last", "combines"),
    _row("opaque", "matmul einsum", "combines"),
    _row("opaque", "convolution _convolution", "convolution"),
    _row(
        "opaque", "native_batch_norm _native_batch_norm_legit cudnn_batch_norm native_group_norm", "normalization"
    ),
)  # fmt: skip

SAME: dict[str, str] = {
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "clip": "clamp",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "numpy_T": "t",
    "permute_copy": "permute",
    "expand_copy": "expand",
    "slice_copy": "slice",
    "view_copy": "view",
}
"""Operations under a second name, or as the copy that is made of a view, and the name under which they stand above."""

_KINDS: dict[str, OpKind] = {name: row.kind for row in TABLE for name in row.names}
_HAVING: dict[Property, frozenset[str]] = {
    given: frozenset(name for row in TABLE if given in row.properties for name in row.names)
    for given in get_args(Property)
}

ADDING = _HAVING["adds"]
MULTIPLYING = _HAVING["multiplies"]
LINEAR = _HAVING["linear"]
COMPLETING = _HAVING["completes"]
SUMMING = LINEAR - _HAVING["monomial"]
"""a ± b, by whichever operation: the differences that densities square are of these."""
POWERS = _HAVING["power"]
MONOMIAL = _HAVING["monomial"]
EXPONENTIAL = _HAVING["exponential"]
CDF = _HAVING["cdf"]
ROUNDING = _HAVING["rounds"]
ACTIVATIONS = _HAVING["activates"]
LIMITING = _HAVING["limits"]
KEEPING_NOISE = _HAVING["keeps_noise"]
COMPARING = _HAVING["compares"]
PICKING_BY_CHANCE = _HAVING["picks_by_chance"]
PERMUTING = _HAVING["permutes"]
CHOOSING = _HAVING["chooses"]
BROADCASTING = _HAVING["broadcasts"]
COPYING = _HAVING["copies"]
REPEATING = _HAVING["repeats"]
SHUFFLING = _HAVING["shuffles"]
NARROWING = _HAVING["narrows"]
SELECTING = _HAVING["selects"]
JOINING = _HAVING["joins"]
WRITING_PART = _HAVING["writes_part"]
WRITING_PICKED = _HAVING["writes_picked"]
WRITING_THIRD = _HAVING["writes_third"]
WRITING = WRITING_PART | WRITING_PICKED
OVERWRITING = _HAVING["overwrites"]
LITERAL = _HAVING["literal"]
SCALING_NOISE = _HAVING["scales_noise"]
STATISTICS = _HAVING["statistic"]
SHARING = _HAVING["shares"]
RUNNING = _HAVING["runs"]
PRODUCTS = _HAVING["product"]
CONVOLUTIONS = _HAVING["convolution"]
NORMALIZATIONS = _HAVING["normalization"]
COMBINING = _HAVING["combines"]
KEEPING_CHANNELS = _HAVING["keeps_channels"]
CHANNELS_LAST = _HAVING["channels_last"]

TOTALS = frozenset({"sum", "mean"})
"""How elements become one number of a loss."""
DIFFERENCES = frozenset({"sub", "rsub", "add"})
"""a ± b of two operands, by name: what is adding by other means stands in `ADDING`."""
SUBTRACTING = DIFFERENCES - {"add"}
"""a − b of two operands, in either order."""
TOTALLED = TOTALS | DIFFERENCES | {"neg"}
"""What carries a factor of a loss from one side to the other as it is."""
FACTORS = frozenset({"mul", "div"})
PICKING = frozenset({"gather", "index"})
"""Elements are picked by an index, as a cross-entropy picks the class of each row."""
HELD = frozenset({"clamp", "clamp_min", "clamp_max", "nan_to_num"})
"""What holds values inside of a range, and is the identity there."""
FLOORS = frozenset({"add", "clamp"})
"""The steps of a convention that keep a σ from zero."""
ADDING_BY_INDEX = frozenset({"index_add", "scatter_add", "scatter_reduce", "index_reduce", "segment_reduce"})
"""Elements are added up by the number of the group that each of them is of, as the nodes of several graphs are."""
GATES = frozenset({"sigmoid", "hardsigmoid"})
"""What lets a value through in part, by name."""
POSITIVE = frozenset({"exp", "exp2", "softplus", "square", "sigmoid", "hardsigmoid", "softmax"})
"""What makes a number of one sign, as a scale is, by name."""
LINEAR_STEPS = frozenset({"add", "mul"})
"""The steps of a convention that are straight lines."""
SUMS = frozenset({"add", "sub"})
"""a ± b, by name."""
WEIGHING = frozenset({"add", "mul"})
"""How a layer puts a weight of its own to what it computes."""
BENDING = frozenset({"neg", "tanh", "relu", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "nan_to_num"})
"""What a layer's output may go through before it is added up: activations that are no measure of its size."""
WEIGHING_A_LOG = frozenset({"mul", "xlogy"})
"""x · y and x · log(y): how a cross-entropy weighs a log probability by its target."""
NATURAL_LOGARITHMS = frozenset({"log", "log1p"})
CUTTING = frozenset({"slice", "select"})
"""A range, or one place, of a dimension is taken, by numbers."""
MATRIX_PRODUCTS = frozenset({"bmm", "mm"})
"""A product of two matrices, one for all examples or one for each."""
KEEPING_ZERO = frozenset({"sqrt", "square", "abs", "neg", "relu"})
"""Functions of one operand that are 0 where it is."""
SOFTMAXES = frozenset({"_log_softmax", "_softmax"})
LOGARITHMS = frozenset({"log", "log1p", "log2", "log10", "log_sigmoid", "log_sigmoid_forward", "_log_softmax"})
ONE_LONG = frozenset({"unsqueeze", "squeeze"})
"""A dimension of one element comes or goes."""
VIEWS = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})
"""The same elements under another shape, which depends on their strides."""


def base_name(name: str) -> str:
    """The name under which an operation stands in the table: `exp_` and `exp` are one function, as are `clip` and
    `clamp`."""
    plain = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    return SAME.get(plain, plain)


def kind_of(name: str) -> OpKind:
    """What an operation does to its elements; `opaque` is everything that the table does not have."""
    return _KINDS.get(name, "opaque")
