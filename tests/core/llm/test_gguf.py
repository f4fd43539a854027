"""GGUF files are converted once. Run: pytest tests/core/llm/test_gguf.py"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny_gguf import add_tokenizer
from tiny_llm import chat_tokenizer, reference_states, relative_error, save_llm

from lidit_core.errors import LiDiTError
from lidit_core.llm.gguf import convert as conversion
from lidit_core.llm.loading import load_llm, source_storage
from lidit_core.llm.locate import locate
from lidit_core.progress import Cancelled, heard_by
from lidit_core.text.encoder import LLMEncoder
from lidit_core.text.prompt_encoder import PromptEncoder

gguf = pytest.importorskip("gguf")

WIDTH, FEED, BLOCKS, HEADS = 32, 64, 4, 4


def write_gguf(path, seed: int = 0, architecture: str = "llama") -> None:
    """A tiny random Llama with Q8_0 matrices and the tests' chat tokenizer."""
    random = np.random.default_rng(seed)
    tokenizer = chat_tokenizer()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    for name, value in (("context_length", 512), ("embedding_length", WIDTH),
                        ("block_count", BLOCKS), ("feed_forward_length", FEED),
                        ("head_count", HEADS), ("head_count_kv", 2),
                        ("rope_dimension_count", WIDTH // HEADS)):  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(50000.0)
    add_tokenizer(writer, tokenizer)
    matrices = {"attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH // 2, WIDTH),
                "attn_v": (WIDTH // 2, WIDTH), "attn_output": (WIDTH, WIDTH),
                "ffn_gate": (FEED, WIDTH), "ffn_up": (FEED, WIDTH),
                "ffn_down": (WIDTH, FEED)}  # fmt: skip
    shapes = {f"blk.{i}.{n}.weight": s for i in range(BLOCKS) for n, s in matrices.items()}
    shapes["token_embd.weight"] = (len(tokenizer), WIDTH)
    for name, shape in shapes.items():
        data = (0.2 * random.standard_normal(shape)).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quantize(data, kind), raw_dtype=kind)
    norms = [f"blk.{i}.{n}_norm.weight" for i in range(BLOCKS) for n in ("attn", "ffn")]
    for name in [*norms, "output_norm.weight"]:
        writer.add_tensor(name, (1 + 0.2 * random.standard_normal(WIDTH)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    return path


def test_converted_once(file, cache, monkeypatch):
    """Equal to transformers' own states of the converted weights; later loads read the copy."""
    llm = load_llm(file, dtype=torch.float32)
    assert llm.name == "tiny" and llm.blocks == 2
    folder = locate(file).folder
    assert json.loads((folder / "config.json").read_text())["rope_theta"] == 50000
    assert folder.is_relative_to(cache) and not list(folder.glob(".converting*"))
    encoder = LLMEncoder(llm, "short")
    text = encoder.renderer("two bees")
    theirs = reference_states(folder, text.ids)[-3]
    assert relative_error(encoder.encode(["two bees"]).hidden[0], theirs) <= 1e-5
    monkeypatch.setattr(conversion, "write_folder", lambda *args: pytest.fail("converted again"))
    again = LLMEncoder(load_llm(file, dtype=torch.float32), "short").encode(["two bees"])
    assert torch.equal(again.hidden, encoder.encode(["two bees"]).hidden)


def test_weights_are_those_of_the_file(file, cache):
    """In float16, which keeps every value to half of its last digit; norms in float32."""
    load_llm(file)
    reader = gguf.GGUFReader(file)
    module = load_llm(file, dtype=torch.float32).module
    tensors = {t.name: t for t in reader.tensors}
    tensor = tensors["blk.1.ffn_down.weight"]
    exact = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type))
    ours = module.layers[1].mlp.down_proj.weight
    assert ((ours - exact).abs() <= 6e-4 * exact.abs()).all() and not torch.equal(ours, exact)
    norm = torch.from_numpy(tensors["blk.1.ffn_norm.weight"].data.copy())
    assert torch.equal(module.layers[1].post_attention_layernorm.weight, norm)


def test_what_its_numbers_are_stored_as_is_told_after_the_conversion(file, cache):
    """Of a copy of before, whose note lacks it, by the GGUF; where that is gone it is not known."""
    assert source_storage(file, -3) == ""
    assert load_llm(file).storage == source_storage(file, -3) == "q8"
    note = locate(file).folder / conversion.NOTE
    said = json.loads(note.read_text())
    assert said.pop("storage") == ["q8"] * BLOCKS
    note.write_text(json.dumps(said))
    assert source_storage(file, -3) == "q8"
    file.unlink()
    assert load_llm(file).storage == source_storage(file, -3) == ""


def test_tokenizer_and_template_come_along(file, cache):
    theirs, ours = chat_tokenizer(), load_llm(file).tokenizer
    assert ours.chat_template == theirs.chat_template
    for text in ("a red cat", "两只猫 🍎", "  x\n"):
        pair = [
            tokenizer(text, add_special_tokens=False)["input_ids"] for tokenizer in (ours, theirs)
        ]
        assert pair[0] == pair[1]


def test_other_file_of_the_same_name(file, cache):
    before = PromptEncoder(file, "short").encode(["two bees"])
    write_gguf(file, seed=1)
    after = PromptEncoder(file, "short").encode(["two bees"])
    assert not torch.allclose(before.hidden, after.hidden, rtol=0.01)


def test_files_that_differ_in_the_middle_alone_are_told_apart(tmp_path):
    path, content = tmp_path / "some.gguf", bytearray(64 << 20)
    path.write_bytes(content)
    before = conversion.content_digest([path])
    third = len(content) // 3
    content[third : 2 * third] = b"x" * third
    path.write_bytes(content)
    assert conversion.content_digest([path]) != before


def test_an_unchanged_file_is_not_hashed_again(file, cache, monkeypatch):
    folder = locate(file).folder
    monkeypatch.setattr(conversion, "content_digest", lambda parts: pytest.fail("hashed again"))
    assert locate(file).folder == folder


def test_by_name_in_parts(file, cache, tmp_path, monkeypatch):
    """Parts of a packaged LLM are joined for the conversion, and nothing of that stays behind."""
    from lidit_core.llm.locate import LLMSource

    data, folder = file.read_bytes(), cache / "llm" / "mine"
    parts = (tmp_path / "a.part0", tmp_path / "a.part1")
    for part, piece in zip(parts, (data[:5000], data[5000:])):
        part.write_bytes(piece)
    found = LLMSource("mine", folder, parts)
    conversion.convert(found.parts, found.folder)
    assert (folder / "tokenizer.json").is_file()
    assert not [path for path in folder.iterdir() if path.suffix == ".gguf" or path.is_dir()]
    assert torch.equal(
        LLMEncoder(load_llm("mine", dtype=torch.float32)).encode(["a"]).hidden,
        LLMEncoder(load_llm(file, dtype=torch.float32)).encode(["a"]).hidden,
    )


@pytest.mark.parametrize("architecture", ["clip", "flux"])
def test_a_gguf_that_is_no_llm_is_named(tmp_path, cache, architecture):
    file = tmp_path / "picture.gguf"
    write_gguf(file, architecture=architecture)
    with pytest.raises(LiDiTError, match=f"picture.gguf cannot be converted .*{architecture}"):
        load_llm(file)


def test_what_a_killed_conversion_left_is_removed(file, cache):
    folder = locate(file).folder
    old, running = folder / ".converting-old", folder / ".converting-running"
    for scratch in (old, running):
        scratch.mkdir(parents=True)
    os.utime(old, (1, 1))
    load_llm(file)
    assert running.exists() and not old.exists()


def test_threads_convert_once(file, cache, monkeypatch):
    written, write = [], conversion.write_folder
    monkeypatch.setattr(conversion, "write_folder", lambda *args: written.append(1) or write(*args))
    with ThreadPoolExecutor() as threads:
        llms = list(threads.map(lambda _: load_llm(file, dtype=torch.float32), range(3)))
    assert len(written) == 1 and {llm.blocks for llm in llms} == {2}
    assert type(gguf.GGUFReader) is type  # and the gguf package is as it was


def test_a_missing_package_ends_with_the_line_to_paste(file, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)  # as where it is not installed
    with pytest.raises(LiDiTError, match="-m pip install --upgrade gguf$") as told:
        load_llm(file)
    assert sys.executable in str(told.value)


@pytest.mark.parametrize("keep", [2, 100, 0.5, 0.98])
def test_cut_short(file, cache, keep):
    data = file.read_bytes()
    file.write_bytes(data[: keep if keep > 1 else int(len(data) * keep)])
    with pytest.raises(LiDiTError, match="tiny.gguf"):
        load_llm(file)
    assert not list(cache.rglob("config.json"))
    write_gguf(file)
    assert load_llm(file).blocks == 2


def test_not_a_gguf(tmp_path, cache):
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04 zip")
    with pytest.raises(LiDiTError, match="GGUF"):
        load_llm(tmp_path / "x.gguf")


def test_conversion_and_loading_tell_how_far_they_are(file, cache):
    heard: dict[str, list[float]] = {}
    with heard_by(lambda what, share: heard.setdefault(what, []).append(share)):
        load_llm(file)
    reading, converting, loading = heard
    assert reading == "reading tiny" and loading.endswith(" MB of weights")
    assert converting == "converting tiny.gguf to safetensors, once"
    assert all(shares == sorted(shares) for shares in heard.values())
    assert len(set(heard[converting])) > 20 and heard[converting][-1] < 1
    assert len(set(heard[loading])) > 10


def test_a_conversion_that_is_stopped_leaves_nothing_and_can_be_made_again(file, cache):
    def listener(what: str, share: float) -> None:
        if what.startswith("converting") and share > 0:
            raise Cancelled

    with heard_by(listener), pytest.raises(Cancelled):
        load_llm(file)
    assert not [path for path in cache.rglob("*") if path.is_file()]
    assert load_llm(file).blocks == BLOCKS - 2


def test_a_package_that_lacks_is_told_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr(conversion, "GGUF_NEEDS", ("no_such_package", "torch"))
    with pytest.raises(LiDiTError, match="needs no_such_package, which .* no_such_package$"):
        conversion.check_packages()


WITHOUT_A_NETWORK = """
import socket, sys
asked = []
def refused(*address, **_):
    asked.append(address)
    raise OSError("no network")
socket.getaddrinfo = socket.socket.connect = refused
from lidit_core.errors import LiDiTError
from lidit_core.llm.loading import load_llm
for source in sys.argv[1:]:
    try:
        load_llm(source)
    except LiDiTError as error:
        assert "cannot be downloaded" in str(error), error
    print(len(asked))
"""


@pytest.mark.long
def test_no_load_asks_a_network_but_a_hubs(file, cache, tmp_path):
    """Whoever is offline has told nobody so, and would wait for answers that do not come."""
    sources = [save_llm(tmp_path / "folder"), file, "hub:nobody/nothing"]
    words = [sys.executable, "-c", WITHOUT_A_NETWORK, *map(str, sources)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    folder, gguf_file, hub = map(int, done.stdout.split())
    assert folder == gguf_file == 0 < hub
