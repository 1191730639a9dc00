#!/usr/bin/env python3
"""Makes the seeds of the fuzzers in tests/fuzz/corpus: small honest files, so that mutation starts behind the first checks.

Run with torch, safetensors, NumPy and Pillow installed. The files of torch.save serve engine/base/vitrine/base/real_files_test.cpp too.
"""
import argparse
import io
import json
import pathlib
import pickle
import struct

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save as save_arrays
from safetensors.torch import save

CORPUS = pathlib.Path(__file__).parent / "corpus"


def put(name, data):
    path = CORPUS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def checkpoint():
    weight = torch.arange(6.0).reshape(2, 3)
    model = torch.nn.Module()
    model.register_buffer("weight", weight)
    model.register_buffer("turned", weight.t())
    model.register_buffer("slice", weight[1:, 1:])
    model.parameter = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    model.register_buffer("steps", torch.tensor(12))
    model.register_buffer("mask", torch.tensor([True, False]))
    model.register_buffer("small", torch.ones(3).to(torch.float8_e4m3fn))
    return {"model": model.state_dict(), "epoch": 300, "best": np.float64(0.5), "args": argparse.Namespace(lr=0.1, model="vit_tiny")}


def torch_save(value, **settings):
    buffer = io.BytesIO()
    torch.save(value, buffer, **settings)
    return buffer.getvalue()


def image(format, frames=1, mode="RGB", **settings):
    buffer = io.BytesIO()
    pictures = [Image.new(mode, (3, 2), i) for i in range(frames)]
    if frames > 1:
        settings.update(save_all=True, append_images=pictures[1:])
    pictures[0].save(buffer, format, **settings)
    return buffer.getvalue()


def concept_index():
    """An index of one concept over two pictures, in the layout of engine/base/vitrine/base/concept_index.cpp."""
    columns = ["frequency", "picture_frequency", "class_frequency", "mean", "maximum", "class_maximum", "effect", "monosemanticity",
               "localisation"]
    arrays = {f"column.{name}": np.ones(1, "f4") for name in columns}
    tops, kept = np.zeros((1, 16), "f4"), np.zeros((1, 16), "u4")
    tops[0, 0] = 2
    arrays |= {"tops.picture": kept, "tops.cell": kept, "tops.value": tops, "class_tops.picture": kept, "class_tops.value": tops}
    arrays |= {"histogram": np.ones((1, 48), "u4"), "neighbours.latent": np.zeros((1, 8), "u4"), "map": np.zeros((1, 2), "f4")}
    arrays |= {"neighbours.cosine": np.ones((1, 8), "f4"), "picture.names": np.frombuffer(b"a.jpgb.jpg", "u1")}
    arrays |= {"picture.name_end": np.array([5, 10], "u8"), "picture.size": np.ones(2, "i8"), "picture.time": np.ones(2, "i8")}
    arrays |= {"picture.answer": np.ones(2, "i4"), "picture.probability": np.ones(2, "f4"), "picture.skipped": np.zeros(2, "u1")}
    arrays |= {"strongest.latent": np.zeros((2, 32), "u4"), "strongest.value": np.ones((2, 32), "f4")}
    facts = {"format": "vitrine.concept_index", "version": "1", "latents": "1", "pictures": "2", "rows": "1", "cols": "1"}
    return save_arrays(arrays, facts)


def concept_block():
    """A block of the journal: one picture, an embedding of two numbers, one concept."""
    body = b"a.jpg\0\0\0" + struct.pack("<2f", 1, 2) + struct.pack("<IHH5f", 0, 0, 1, 2, 2, 0, 1, 0.5) + bytes(4)
    head = struct.pack("<QQqqifIIIIII", 0, 64 + len(body), 9, 9, 1, 0.5, 1, 5, 0, 2, 1, 0x54434950)
    return b"J" + head + body


def steered(model, autoencoder, tokens, edits, **more):
    """A file of a steered model."""
    return json.dumps({"format": "vitrine.steered", "version": 1, "model": model, "autoencoder": {"hash": "0123456789abcdef", **autoencoder},
                       "edits": edits, "tokens": tokens, **more}, indent=2).encode()


def main():
    edits = [{"concept": 3, "mode": "set", "value": 2.5}, {"concept": 4, "mode": "add", "value": -1e-3}, {"concept": 5, "mode": "scale", "value": 0},
             {"concept": 6, "mode": "suppress"}]
    put("steered/named.steered.json", steered({"name": "starter", "weights": "0f"}, {"built_in": "starter/concepts.safetensors"}, "all", edits))
    put("steered/files.steered.json", steered({"file": "../m.safetensors"}, {"file": "c.pt", "given": {"point": "blocks.9", "kind": "relu"}},
                                              "0,1-2,3;5,5", edits[:1], grid={"rows": 14, "cols": 14}))
    put("steered/none.steered.json", steered({"file": "m"}, {"file": "c"}, "class", []))
    put("steered/tokens", b"T0,1-2,3;5,5;9223372036854775807,0")
    put("steered/edits", b"E3=2.5,7=-1e-9,8=inf")
    put("concept_index/one.index", concept_index())
    put("concept_index/block", concept_block())
    put("safetensors/two.safetensors", save({"a": torch.ones(2, 2), "b": torch.ones(3, dtype=torch.int64)}, {"format": "pt"}))
    put("safetensors/empty.safetensors", save({"none": torch.ones(0, 3)}))
    for protocol in (2, 5):
        put(f"torch_save/zip_protocol{protocol}.pt", torch_save(checkpoint(), pickle_protocol=protocol))
    for protocol in (2, 4):
        put(f"torch_save/legacy_protocol{protocol}.pt", torch_save(checkpoint(), pickle_protocol=protocol, _use_new_zipfile_serialization=False))
    put("torch_save/small.pt", torch_save({"w": torch.ones(2)}))
    # "R" before a pickle: the target puts an archive with one storage around it.
    values = {"a": [1, 2.5, None, True, b"x", (1, 2, 3), {4}, 2**40, 2**70, bytearray(b"y")], "\u00e9": frozenset([1])}
    for protocol in range(6):
        put(f"torch_save/pickle{protocol}", b"R" + pickle.dumps(values, protocol))
    tensor = (b"R\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
              b"X\x03\x00\x00\x00cpuK\x06tQK\x01K\x02K\x02\x86K\x01K\x02\x86\x89ccollections\nOrderedDict\n)RtRs.")
    put("torch_save/tensor", tensor)
    exif = Image.Exif()
    exif[0x0112] = 6
    put("image/a.jpg", image("JPEG", exif=exif, quality=1))
    put("image/cmyk.jpg", image("JPEG", mode="CMYK", quality=1))
    put("image/a.png", image("PNG", exif=exif))
    put("image/moving.png", image("PNG", frames=2))
    put("image/moving.gif", image("GIF", frames=2))
    put("image/a.bmp", image("BMP"))
    put("image/a.tif", image("TIFF"))
    put("image/a.webp", image("WEBP", lossless=True, exif=exif))
    put("image/lossy.webp", image("WEBP"))
    put("image/a.ppm", b"P6 # c\n3 2\n255\n" + bytes(18))
    put("image/a.pam", b"P7\nWIDTH 3\nHEIGHT 2\nDEPTH 4\nMAXVAL 255\nENDHDR\n" + bytes(24))


if __name__ == "__main__":
    main()
