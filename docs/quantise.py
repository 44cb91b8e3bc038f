#!/usr/bin/env python3
"""Quantises the projections of a small checkpoint in the layouts that public programs write.

    python quantise.py FORMAT FOLDER      FOLDER has model.safetensors and config.json; both are replaced

What is written follows the descriptions that formats.md lists, not code of those programs. Weights are rounded to the
nearest code; real programs choose scales and codes with more care, which readers of the files don't see. make_case.py
uses it for reference cases of quantised models: `quantise` also returns the weights that the codes stand for. Needs
torch and safetensors.
"""

import json
import pathlib
import re
import sys

import torch
from safetensors.torch import load_file, save_file

E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble i of a word holds this column of eight


def by_group(weights, rows, cols, function):
    """Applies a function to each group of rows x cols elements of [out, in]; returns a matrix of the results."""
    out, size = weights.shape
    rows, cols = rows or out, cols or size
    return torch.stack([torch.stack([function(weights[r:r + rows, c:c + cols]) for c in range(0, size, cols)])
                        for r in range(0, out, rows)])


def spread(scales, rows, cols, shape):
    """The scale of each element of [out, in]."""
    rows, cols = rows or shape[0], cols or shape[1]
    return scales.repeat_interleave(rows, 0)[:shape[0]].repeat_interleave(cols, 1)[:, :shape[1]]


def largest(group):
    return group.abs().max().clamp(min=1e-12)


def pack(codes, bits, order=None):
    """Codes [rows, cols] to 32-bit words along the columns, the first one in the lowest bits."""
    per_word = 32 // bits
    codes = torch.nn.functional.pad(codes.long(), (0, -codes.shape[1] % per_word))
    codes = codes.reshape(codes.shape[0], -1, per_word)
    words = sum(codes[:, :, column] << (bits * place) for place, column in enumerate(order or range(per_word)))
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def nearest_e2m1(values):
    """Codes of FP4 E2M1, and their values."""
    magnitude = (values.abs()[..., None] - E2M1).abs().argmin(-1)
    codes = magnitude + 8 * (values < 0)
    return codes, E2M1[magnitude] * torch.where(values < 0, -1.0, 1.0)


def fp8(rows, cols, suffix, shape_of=lambda scales: scales):
    def convert(module, weights):
        scales = by_group(weights, rows, cols, largest) / 448
        spread_scales = spread(scales, rows, cols, weights.shape)
        codes = (weights / spread_scales).to(torch.float8_e4m3fn)
        return ({f"{module}.weight": codes, f"{module}.{suffix}": shape_of(scales).contiguous()},
                codes.float() * spread_scales)
    return convert


def integers(bits, cols, symmetric, packed, dtype=torch.bfloat16):
    """int-quantized and pack-quantized of compressed-tensors."""
    most = 2**(bits - 1) - 1

    def convert(module, weights):
        shape = weights.shape
        if symmetric:
            scales = (by_group(weights, 1, cols, largest) / most).to(dtype).float()
            zeros = torch.zeros_like(scales)
        else:
            low = by_group(weights, 1, cols, lambda g: g.min().clamp(max=0))
            high = by_group(weights, 1, cols, lambda g: g.max().clamp(min=1e-12))
            scales = ((high - low) / (2 * most + 1)).to(dtype).float()
            zeros = (-most - 1 - low / scales).round().clamp(-most - 1, most)
        wide_scales, wide_zeros = (spread(x, 1, cols, shape) for x in (scales, zeros))
        codes = (weights / wide_scales + wide_zeros).round().clamp(-most - 1, most)
        tensors = {f"{module}.weight_scale": scales.to(dtype)}
        if packed:
            tensors[f"{module}.weight_packed"] = pack(codes + most + 1, bits)
            tensors[f"{module}.weight_shape"] = torch.tensor(shape)
        else:
            tensors[f"{module}.weight"] = codes.to(torch.int8)
        if not symmetric:
            stored = pack((zeros + most + 1).T, bits).T.contiguous() if packed else zeros.to(torch.int8)
            tensors[f"{module}.weight_zero_point"] = stored
        return tensors, (codes - wide_zeros) * wide_scales
    return convert


def nvfp4(names):
    def convert(module, weights):
        common = largest(weights) / (448 * 6)
        scales = (by_group(weights, 1, 16, largest) / 6 / common).to(torch.float8_e4m3fn)
        wide = spread(scales.float() * common, 1, 16, weights.shape)
        codes, values = nearest_e2m1(weights / wide)
        inverse = names[2] == "weight_global_scale"
        stored = 1 / common if inverse else common
        return ({f"{module}.{names[0]}": (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8),
                 f"{module}.{names[1]}": scales,
                 f"{module}.{names[2]}": stored.reshape([1] if inverse else []).float(),
                 f"{module}.input_scale": torch.tensor(0.01)},
                values * spread(scales.float() * (1 / stored if inverse else stored), 1, 16, weights.shape))
    return convert


def mxfp4(module, weights):
    exponents = by_group(weights, 1, 32, lambda g: torch.floor(torch.log2(largest(g))) - 2)
    wide = torch.exp2(spread(exponents, 1, 32, weights.shape))
    codes, values = nearest_e2m1(weights / wide)
    return ({f"{module}.weight_packed": (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8),
             f"{module}.weight_scale": (exponents + 127).to(torch.uint8)}, values * wide)


def gptq_or_awq(bits, cols, awq=False, by_activation=False):
    most = 2**bits - 1

    def convert(module, weights):
        size = weights.shape[1]
        group_of = torch.arange(size) // cols
        if by_activation:  # columns in the order of some importance
            order = torch.randperm(size, generator=torch.Generator().manual_seed(size))
            group_of = torch.empty_like(group_of).scatter_(0, order, group_of)
        groups = size // cols
        low = torch.stack([weights[:, group_of == g].min(1).values.clamp(max=0) for g in range(groups)])
        high = torch.stack([weights[:, group_of == g].max(1).values.clamp(min=1e-12) for g in range(groups)])
        scales = ((high - low) / most).to(torch.float16).float()  # [groups, out]
        zeros = (-low / scales).round().clamp(1, most)
        codes = (weights / scales[group_of].T + zeros[group_of].T).round().clamp(0, most)
        values = (codes - zeros[group_of].T) * scales[group_of].T
        tensors = {f"{module}.scales": scales.to(torch.float16)}
        if awq:
            tensors[f"{module}.qweight"] = pack(codes.T, bits, AWQ_ORDER)
            tensors[f"{module}.qzeros"] = pack(zeros, bits, AWQ_ORDER)
        else:
            tensors[f"{module}.qweight"] = pack(codes, bits).T.contiguous()
            tensors[f"{module}.qzeros"] = pack(zeros - 1, bits)  # version 1 of the format
            tensors[f"{module}.g_idx"] = group_of.to(torch.int32)
        return tensors, values
    return convert


def compressed(form, weights):
    return {"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


FORMATS = {
    "fp8_block": (fp8(128, 128, "weight_scale_inv"),
                  {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}),
    "fp8_small_block": (fp8(32, 64, "weight_scale_inv"),
                        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 64]}),
    "fp8_channel": (fp8(1, 0, "weight_scale"),
                    compressed("float-quantized",
                               {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True})),
    "fp8_tensor": (fp8(0, 0, "weight_scale", lambda scales: scales.reshape([])),
                   {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": None}),
    "int8_channel": (integers(8, 0, True, False, torch.float32),
                     compressed("int-quantized",
                                {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True})),
    "int4_group": (integers(4, 32, True, True),
                   compressed("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32,
                                                 "symmetric": True})),
    "int4_zero_points": (integers(4, 16, False, True),
                         compressed("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group",
                                                       "group_size": 16, "symmetric": False})),
    "int4_zero_points_64": (integers(4, 64, False, True),
                            compressed("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group",
                                                          "group_size": 64, "symmetric": False})),
    "nvfp4_modelopt": (nvfp4(["weight", "weight_scale", "weight_scale_2"]),
                       {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}),
    "nvfp4_compressed": (nvfp4(["weight_packed", "weight_scale", "weight_global_scale"]),
                         compressed("nvfp4-pack-quantized", {"num_bits": 4, "type": "float",
                                                             "strategy": "tensor_group", "group_size": 16})),
    "mxfp4_compressed": (mxfp4, compressed("mxfp4-pack-quantized", {"num_bits": 4, "type": "float",
                                                                    "strategy": "group", "group_size": 32})),
    "gptq": (gptq_or_awq(4, 32), {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False,
                                  "sym": False, "checkpoint_format": "gptq"}),
    "gptq_by_activation": (gptq_or_awq(4, 32, by_activation=True),
                           {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False}),
    "gptq_8_bits": (gptq_or_awq(8, 64), {"quant_method": "gptq", "bits": 8, "group_size": 64, "desc_act": False,
                                         "sym": False}),
    "awq": (gptq_or_awq(4, 32, awq=True), {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True,
                                           "version": "gemm"}),
}
PROJECTION = re.compile(r"(.*\.(?:\w+_proj|w[123]))\.weight$")


def quantise(folder, form):
    """Replaces the folder's model.safetensors and config.json; returns all weights that they now stand for."""
    convert, settings = FORMATS[form]
    stored, values = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        match = PROJECTION.match(name)
        if match and tensor.dim() == 2:
            tensors, values[name] = convert(match[1], tensor.float())
            stored |= tensors
        else:
            stored[name] = tensor
            values[name] = tensor.float()
    save_file({name: t.contiguous() for name, t in stored.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}, indent=1) + "\n")
    return values


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in FORMATS:
        sys.exit(f"{__doc__}\nFORMAT is one of {', '.join(FORMATS)}")
    quantise(pathlib.Path(sys.argv[2]), sys.argv[1])
