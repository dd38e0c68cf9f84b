"""Claims about reading pickles: nothing in a file is called, and what stays unloaded is named."""

import collections
import copyreg
import io
import pickle
import struct
import sys
import textwrap
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
import torch

from sdtt.models.formats.pickle_names import CodeInPickleError
from sdtt.models.formats.pickles import unpickle
from sdtt.models.formats.placeholders import Placeholder, plain
from sdtt.models.formats.torch_files import LEGACY_MAGIC, NAMES, read_torch_file


def read(data, names=NAMES):
    not_loaded = set()
    return unpickle(io.BytesIO(data), names, no_persistent, not_loaded), not_loaded


def no_persistent(named):
    raise ValueError(f"a persistent id: {named!r}")


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """Makes objects of classes whose module is gone when they are read."""
    (tmp_path / "elsewhere.py").write_text(
        textwrap.dedent(
            """
            from pathlib import Path

            class Node:
                def __init__(self, **state):
                    self.__dict__.update(state)

                def __setstate__(self, state):
                    Path(state["canary"]).touch()

            class Fields(dict):
                pass

            class Rows(list):
                pass

            class Made:
                def __reduce__(self):
                    return make, (1, 2)

            def make(*numbers):
                return Made()
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield import_module("elsewhere")
    sys.modules.pop("elsewhere", None)


def gone(foreign, value, protocol=2):
    """The pickle of a value, once the module of its classes cannot be imported any more."""
    data = pickle.dumps(value, protocol)
    Path(foreign.__file__).unlink()
    sys.modules.pop("elsewhere")
    return data


# ---------------------------------------------------------------- code is never run


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


def calls(module, name, argument):
    """Pickles that call module.name(argument), one for each instruction that can call."""
    named = f"c{module}\n{name}\n".encode()
    stacked = b"\x80\x04" + text(module) + text(name) + b"\x93"
    call = text(argument) + b"\x85"
    return {
        "REDUCE": named + call + b"R.",
        "REDUCE after STACK_GLOBAL": stacked + call + b"R.",
        "NEWOBJ": b"\x80\x04" + named + call + b"\x81.",
        "NEWOBJ_EX": b"\x80\x04" + named + call + b"}\x92.",
        "OBJ": b"(" + named + text(argument) + b"o.",
        "INST": b"(" + text(argument) + f"i{module}\n{name}\n.".encode(),
        "BUILD": named + b")R" + text(argument) + b"b.",
    }


SHELL = ("posix", "system")
OPCODES = sorted(calls(*SHELL, ""))


@pytest.mark.parametrize("opcode", OPCODES)
def test_no_instruction_calls_what_a_pickle_names(tmp_path, opcode):
    canary = tmp_path / "canary"
    data = calls(*SHELL, f"touch {canary}")[opcode]
    with pytest.raises(CodeInPickleError, match=r"^posix\.system$"):
        read(data)
    assert not canary.exists()


CLASS = """
from pathlib import Path
class touch:
    def __new__(cls, path=None):
        if path:
            Path(path).touch()
        return object.__new__(cls)
    def __init__(self, path=None):
        pass
    def __setstate__(self, path):
        Path(path).touch()
"""
"""Runs code however it is made, and when it is given its state."""


@pytest.mark.parametrize("opcode", OPCODES)
def test_no_instruction_calls_what_another_package_names(tmp_path, monkeypatch, opcode):
    """Also while the package is there to be imported, as Python's own machine shows."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "elsewhere_else.py").write_text(CLASS)
    canary = tmp_path / "canary"
    data = calls("elsewhere_else", "touch", str(canary))[opcode]
    _, not_loaded = read(data)
    assert not canary.exists()
    assert "elsewhere_else" not in sys.modules
    assert not_loaded == {"elsewhere_else.touch"}
    pickle.loads(data)
    del sys.modules["elsewhere_else"]
    assert canary.exists()  # it is real


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "nt.system", "subprocess.Popen", "builtins.eval", "builtins.exec"),
        *("builtins.getattr", "builtins.__import__", "builtins.open", "builtins.type"),
        *("functools.partial", "operator.attrgetter", "operator.methodcaller", "runpy.run_path"),
        *("codecs.decode", "importlib.import_module", "types.FunctionType", "types.CodeType"),
        *("copyreg.add_extension", "pickle.loads", "marshal.loads", "shutil.rmtree", "sys.exit"),
        *("ctypes.CDLL", "webbrowser.open", "pdb.run", "timeit.timeit", "socket.socket"),
        *("collections.namedtuple", "enum.property", "pathlib.os", "typing.get_type_hints"),
    ],
)
def test_a_name_of_the_standard_library_is_refused_by_name(name):
    module, _, attribute = name.rpartition(".")
    with pytest.raises(CodeInPickleError, match=f"^{name}$"):
        read(f"c{module}\n{attribute}\n.".encode())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (b"c__builtin__\neval\n.", "builtins.eval"),
        (b"ccommands\ngetoutput\n.", "subprocess.getoutput"),
        (b"ccopy_reg\nadd_extension\n.", "copyreg.add_extension"),
    ],
)
def test_a_name_of_python_2_is_refused_as_what_it_means_today(written, meant):
    with pytest.raises(CodeInPickleError, match=f"^{meant}$"):
        read(written)


@pytest.mark.parametrize(
    "name", [("torch", "os.system"), ("collections", "OrderedDict.fromkeys"), ("a.b", "c.os.popen")]
)
def test_a_dotted_name_does_not_reach_through_a_module(name):
    with pytest.raises(CodeInPickleError):
        read(b"\x80\x04" + text(name[0]) + text(name[1]) + b"\x93.")


def test_a_nested_class_is_a_placeholder_like_another():
    value, not_loaded = read(b"\x80\x04" + text("model.nets") + text("Net.Config") + b"\x93)\x81.")
    assert value.name == "model.nets.Net.Config"
    assert not_loaded == {value.name}


@pytest.mark.parametrize("name", ["a b", "\x1b[2J", "", "a-b", "a.", "<lambda>"])
def test_a_name_that_nothing_in_python_has_is_damage(name):
    with pytest.raises(ValueError, match="a name that nothing in Python has"):
        read(b"\x80\x04" + text("module") + text(name) + b"\x93.")


@pytest.mark.parametrize("code", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"])
def test_the_registry_of_extensions_is_not_asked(monkeypatch, code):
    """Python's machine takes what an earlier pickle left in its cache without looking at it."""
    monkeypatch.setitem(copyreg._extension_cache, 1, print)
    assert pickle.loads(b"\x80\x02" + code + b".") is print
    with pytest.raises(ValueError, match="the instruction EXT"):
        read(b"\x80\x02" + code + b".")


@pytest.mark.parametrize("code", [b"\x97", b"\x97\x98"])
def test_buffers_from_outside_the_file_are_refused(code):
    with pytest.raises(ValueError, match="the instruction NEXT_BUFFER"):
        read(b"\x80\x05" + code + b".")


@pytest.mark.parametrize(
    "function", ["torch._utils._rebuild_tensor_v2", "collections.OrderedDict", "torch.Size"]
)
@pytest.mark.parametrize("state", [b"}", b"N}\x86", b"]"])
def test_a_function_of_ours_takes_no_state_items_or_elements(function, state):
    """With Python's machine a state sets attributes of the function, for the whole process."""
    module, _, name = function.rpartition(".")
    named = f"c{module}\n{name}\n".encode()
    for rest in (state + b"b.", b"K\x01K\x02s.", b"K\x01a.", b"(K\x01\x90."):
        with pytest.raises(ValueError, match="damaged"):
            read(named + rest)


@pytest.mark.parametrize(
    "target", [b"K\x01", b"X\x01\x00\x00\x00a", b"N", b")", b"ctorch\nfloat16\n"]
)
@pytest.mark.parametrize("rest", [b"}b.", b"K\x01K\x02s.", b"K\x01a.", b"(K\x01\x90.", b")R."])
def test_a_value_takes_no_state_items_elements_or_call(target, rest):
    with pytest.raises(ValueError, match="damaged"):
        read(target + rest)


@pytest.mark.parametrize("codec", ["zlib", "rot13", "idna", "utf-16"])
def test_bytes_of_old_protocols_use_no_codec_but_their_own(codec):
    assert read(pickle.dumps(b"\xff\x00", 2))[0] == b"\xff\x00"
    with pytest.raises(ValueError, match=f"bytes in the encoding '{codec}'"):
        read(b"c_codecs\nencode\n" + text("a") + text(codec) + b"\x86R.")


DEEP = b")" + b"\x85" * 200_000
"""A tuple in a tuple in a tuple: to hash it would end the process."""


@pytest.mark.parametrize(
    "data",
    [
        b"}" + DEEP + b"K\x01s.",
        b"(" + DEEP + b"K\x01d.",
        b"\x80\x04\x8f(" + DEEP + b"\x90.",
        b"\x80\x04(" + DEEP + b"\x91.",
        b"cbuiltins\nset\n](" + DEEP + b"e\x85R.",
        b"ccollections\nOrderedDict\n](" + DEEP + b"K\x01\x86e\x85R.",
    ],
    ids=["SETITEM", "DICT", "ADDITEMS", "FROZENSET", "set", "OrderedDict"],
)
def test_a_key_of_nested_tuples_is_refused_and_not_hashed(data):
    with pytest.raises(ValueError, match=r"damaged .*a key that is a tuple of tuples"):
        read(data)


# ---------------------------------------------------------------- values come out as they are


VALUES = {
    "numbers": [0, -1, 255, 65536, -(2**31), 2**70, 1.5, True, None, 3 + 4j],
    "strings": ["", "é", "x" * 300, b"", b"\xff", b"y" * 300, bytearray(b"z")],
    "containers": [
        (),
        (1,),
        (1, 2, 3, 4),
        [],
        {1: {2: [3]}},
        {4, 5},
        frozenset({6}),
        {(1, "a"): 2},
    ],
    "ordered": collections.OrderedDict(a=1, b=collections.OrderedDict()),
    "counted": collections.Counter("aab"),
    "defaults": collections.defaultdict(list, {1: [2]}),
    "dtype": [torch.float16, torch.bfloat16, torch.Size([2, 3])],
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", VALUES)
def test_plain_values_are_what_was_written_in_every_protocol(kind, protocol):
    value, not_loaded = read(pickle.dumps(VALUES[kind], protocol))
    assert value == VALUES[kind]
    assert not not_loaded


@pytest.mark.parametrize("protocol", range(6))
def test_what_is_shared_stays_shared(protocol):
    shared = [1]
    value, _ = read(pickle.dumps([shared, {"again": shared}], protocol))
    assert value[0] is value[1]["again"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_object_of_a_class_that_is_gone_is_a_placeholder_of_its_state(
    foreign, tmp_path, protocol
):
    canary = tmp_path / "canary"
    data = gone(foreign, foreign.Node(canary=str(canary), size=[1, 2]), protocol)
    value, not_loaded = read(data)
    assert value.state == {"canary": str(canary), "size": [1, 2]}
    assert repr(value) == "<elsewhere.Node, not loaded>"
    assert not_loaded == {"elsewhere.Node"}
    assert not canary.exists()


def test_a_placeholder_keeps_what_it_would_have_been_made_from(foreign):
    value, not_loaded = read(gone(foreign, foreign.Made()))
    assert (value.name, value.arguments) == ("elsewhere.make", (1, 2))
    assert not_loaded == {"elsewhere.make"}


@pytest.mark.parametrize("protocol", [2, 4])
def test_classes_that_are_containers_come_out_as_containers(foreign, protocol):
    fields, rows = foreign.Fields(a=1, b=foreign.Fields(c=2)), foreign.Rows([3, 4])
    value, _ = read(gone(foreign, {"fields": fields, "rows": rows}, protocol))
    assert plain(value) == {"fields": {"a": 1, "b": {"c": 2}}, "rows": [3, 4]}


def test_a_node_of_omegaconf_comes_out_as_what_it_holds(foreign):
    node = foreign.Node
    leaf = node(_metadata=None, _parent=None, _val=768)
    branch = node(_metadata=None, _content={"size": leaf, "names": node(_content=[node(_val="a")])})
    leaf._parent = branch  # as omegaconf does: up as well as down
    nothing = node(_content=None)
    value, _ = read(gone(foreign, {"config": branch, "nothing": nothing, "other": node(a=1)}))
    assert plain(value)["config"] == {"size": 768, "names": ["a"]}
    assert plain(value)["nothing"] is None
    assert isinstance(plain(value)["other"], Placeholder)


def test_plain_follows_what_holds_itself_and_what_is_shared_once():
    loop = {"name": "loop"}
    loop["self"] = [loop, (loop,)]
    made = plain(loop)
    assert made is not loop
    assert made["self"][0] is made
    doubled = []
    for _ in range(60):  # 2^60 values, if each were followed wherever it occurs
        doubled = [doubled, doubled]
    first, second = plain(doubled)
    assert first is second


def test_plain_refuses_what_is_nested_too_deeply():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deeply"):
        plain(deep)
    while deep:  # else Python follows it down to free it
        deep = deep.pop()


@pytest.mark.parametrize("name", ["pathlib.PosixPath", "typing.Any", "datetime.timedelta"])
def test_harmless_names_of_the_standard_library_are_placeholders_too(name):
    module, _, attribute = name.rpartition(".")
    value, not_loaded = read(f"c{module}\n{attribute}\n.".encode())
    assert isinstance(value, Placeholder)
    assert value.build is None
    assert not_loaded == {name}


# ---------------------------------------------------------------- files of torch.save


def content_of(linear):
    return {
        "weight": linear.weight,  # a parameter
        "transposed": linear.weight.detach().t(),
        "part": linear.weight.detach()[1:, ::2],
        "bias": linear.bias.detach(),
        "half": torch.arange(5).bfloat16(),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "new": torch.arange(4).to(torch.uint16),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.empty(0, 3),
        "bool": torch.tensor([True, False]),
    }


@pytest.fixture
def saved(tmp_path):
    def save(content, name="a.ckpt", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_bitwise_what_was_saved(saved, zipped, protocol):
    content = content_of(torch.nn.Linear(6, 4))
    content["weight"].mark = 1  # an attribute, as trainers leave them on parameters
    file = saved(content, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = read_torch_file(file)
    assert found.placeholders == ()
    for name, tensor in content.items():
        assert type(found.content[name]) is torch.Tensor
        assert found.content[name].dtype == tensor.dtype
        assert torch.equal(found.content[name], tensor.detach())


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_one_storage_stay_tied(saved, zipped):
    shared = torch.zeros(3)
    file = saved({"a": shared, "b": shared[1:]}, _use_new_zipfile_serialization=zipped)
    found = read_torch_file(file).content
    found["a"][2] = 7
    assert found["b"][1] == 7


def test_writing_to_a_mapped_tensor_leaves_the_file_alone(saved):
    file = saved({"a": torch.zeros(3)})
    before = file.read_bytes()
    read_torch_file(file).content["a"].add_(1)
    assert file.read_bytes() == before
    assert read_torch_file(file).content["a"].sum() == 0


def test_a_tensor_beyond_its_storage_is_refused(saved):
    # in the legacy format, whose pickle has no checksum
    file = saved({"a": torch.arange(100.0)}, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    size = b"K\x00Kd\x85"  # offset 0, size (100,)
    assert whole.count(size) == 1
    for wrong in (b"K\x00Ke\x85", b"K\x01Kd\x85"):
        file.write_bytes(whole.replace(size, wrong))
        with pytest.raises(ValueError, match=r"its pickle is damaged .* out of bounds"):
            read_torch_file(file)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_short_anywhere_is_refused_in_one_line(saved, zipped):
    file = saved(content_of(torch.nn.Linear(6, 4)), _use_new_zipfile_serialization=zipped)
    whole = file.read_bytes()
    for length in {*range(1, len(whole), 97), len(whole) - 1}:
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"^cannot read .*a\.ckpt: ") as caught:
            read_torch_file(file)
        assert "\n" not in str(caught.value)


def test_the_keys_of_a_legacy_file_are_not_hashed_as_nested_tuples(tmp_path):
    head = pickle.dumps(LEGACY_MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    (tmp_path / "a.ckpt").write_bytes(head + pickle.dumps({}, 2) + b"]" + DEEP + b"a.")
    with pytest.raises(ValueError, match="not every tensor has its numbers"):
        read_torch_file(tmp_path / "a.ckpt")


def test_a_record_that_is_compressed_or_encrypted_is_refused(tmp_path):
    file, pickled = tmp_path / "a.ckpt", b"\x80\x02}."
    for how in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        with zipfile.ZipFile(file, "w", how) as archive:
            archive.writestr("a/data.pkl", pickled)
        if how == zipfile.ZIP_STORED:
            content = bytearray(file.read_bytes())
            content[6] = content[content.find(b"PK\x01\x02") + 8] = 1  # encrypted, says the flag
            file.write_bytes(content)
        with pytest.raises(ValueError, match=r"its data\.pkl is compressed or encrypted"):
            read_torch_file(file)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_refused_because_it_holds_code(tmp_path):
    """torch.load would run it."""
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "a.ckpt"))
    with pytest.raises(ValueError, match="TorchScript archive, which holds code"):
        read_torch_file(tmp_path / "a.ckpt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_in_it_is_refused_by_name_and_not_run(saved, tmp_path, zipped):
    class Harm:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'canary')!r}, 'w')",)

    file = saved({"state_dict": {"a": Harm()}}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"a\.ckpt is refused: it names builtins\.exec") as caught:
        read_torch_file(file)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "canary").exists()  # it is real


def test_a_bare_pickle_with_code_in_it_is_refused_by_name(tmp_path):
    file = tmp_path / "a.ckpt"
    file.write_bytes(b"cos\nsystem\n" + text(f"touch {tmp_path / 'canary'}") + b"\x85R.")
    with pytest.raises(ValueError, match=r"names os\.system"):
        read_torch_file(file)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a file of torch.save"),
        (b"<html>404</html>", "not a file of torch.save"),
        (pickle.dumps({"a": 1}), "not a file of torch.save"),
        (struct.pack("<Q", 2) + b"{}", "not a file of torch.save"),
        (b"PK\x03\x04 and no more", "cut short or damaged"),
    ],
)
def test_another_file_is_said_to_be_another(tmp_path, content, why):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read .*a.ckpt: .*{why}"):
        read_torch_file(tmp_path / "a.ckpt")


def test_a_damaged_record_beside_the_pickle_is_said_to_be_one(tmp_path):
    file = tmp_path / "a.ckpt"
    torch.save({"a": torch.ones(2)}, file)
    file.write_bytes(file.read_bytes().replace(b"little", b"lettle"))
    with pytest.raises(ValueError, match=r"cannot read .*: it is damaged"):
        read_torch_file(file)


def test_a_folder_or_a_missing_file_is_said_to_be_one(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder, not a file; give the \.ckpt"):
        read_torch_file(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        read_torch_file(tmp_path / "nothing.ckpt")
