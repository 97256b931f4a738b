"""Writes a BERT encoder from its published files (safetensors, vocab.txt, config.json) as GGUF, with the standard library only.

    python3 tests/models/bert_gguf.py FOLDER OUTPUT.gguf

Only what a sentence encoder of the MiniLM kind has: 32-bit weights, WordPiece, pooling by the mean. Names and keys are those of
llama.cpp's own converter (conversion of `BertModel`). For tests: no package carries such a model as GGUF.
"""

import json
import struct
import sys
from pathlib import Path

UINT32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
F32 = 0
NORMAL, CONTROL = 1, 3
MEAN = 1

# Names in a layer, here and in GGUF.
LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
TOP = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def number(key: str, value: int) -> bytes:
    return entry(key, UINT32, struct.pack("<I", value))


def renamed(name: str) -> str | None:
    """The tensor's name in GGUF; nothing for what only training uses."""
    if name in TOP:
        return TOP[name]
    if not name.startswith("encoder.layer."):
        return None
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{LAYER[part]}.{kind}"


def piece(word: str) -> str:
    """WordPiece marks what continues a word; GGUF marks what begins one."""
    if word.startswith("[") and word.endswith("]"):
        return word
    return word[2:] if word.startswith("##") else "\u2581" + word


def main(folder: Path, output: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    specials = {words.index(word) for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    kinds = [CONTROL if at in specials else NORMAL for at in range(len(words))]
    entries = [
        entry("general.architecture", STRING, text("bert")),
        entry("general.license", STRING, text("apache-2.0")),
        number("bert.block_count", config["num_hidden_layers"]),
        number("bert.context_length", config["max_position_embeddings"]),
        number("bert.embedding_length", config["hidden_size"]),
        number("bert.feed_forward_length", config["intermediate_size"]),
        number("bert.attention.head_count", config["num_attention_heads"]),
        entry("bert.attention.layer_norm_epsilon", FLOAT32, struct.pack("<f", config["layer_norm_eps"])),
        entry("bert.attention.causal", BOOL, b"\0"),
        number("bert.pooling_type", MEAN),
        entry("tokenizer.ggml.model", STRING, text("bert")),
        entry("tokenizer.ggml.pre", STRING, text("default")),
        entry("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, len(words)) + b"".join(text(piece(w)) for w in words)),
        entry("tokenizer.ggml.token_type", ARRAY, struct.pack("<IQ", 5, len(kinds)) + struct.pack(f"<{len(kinds)}i", *kinds)),
        number("tokenizer.ggml.token_type_count", config["type_vocab_size"]),
    ]
    with (folder / "model.safetensors").open("rb") as weights:
        (length,) = struct.unpack("<Q", weights.read(8))
        head = json.loads(weights.read(length))
        tensors, data = [], bytearray()
        for name, about in head.items():
            wanted = None if name == "__metadata__" else renamed(name)
            if wanted is None:
                continue
            assert about["dtype"] == "F32", (name, about["dtype"])
            begin, end = about["data_offsets"]
            weights.seek(8 + length + begin)
            shape = list(reversed(about["shape"]))
            dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
            tensors.append(text(wanted) + dimensions + struct.pack("<IQ", F32, len(data)))
            data += weights.read(end - begin)
            data += bytes(-len(data) % 32)
    whole = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + b"".join(tensors)
    part = output.with_suffix(".part")
    part.write_bytes(whole + bytes(-len(whole) % 32) + data)
    part.replace(output)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
