#!/usr/bin/env python3
"""Makes a reference case for `moesaic verify` from a PyTorch model.

    python make_case.py --model FOLDER CASE           your own small checkpoint of transformers
    python make_case.py --config CONFIG.json CASE     random weights; the file has "model_type" and sizes
    python make_case.py --all DIR                     one small case per model family into DIR
    python make_case.py --quantised DIR               one small case per layout of quantised weights into DIR

CASE becomes a folder with config.json, *.safetensors, adapter_init/, train.jsonl, expected.json, adapter_final/ and
grads_step0.safetensors. `moesaic verify CASE` then compares every number in it. Options (--help) choose LoRA targets,
rank, data and optimizer steps. Keep models small: all is computed on the CPU, in FP32 and again in BF16 autocast.

The adapters are computed here and not by PEFT, because PEFT cannot adapt one expert of the fused weights that
transformers 5 has. What is computed is PEFT's definition, y = W x + s B A x, for every expert by itself. Needs torch,
transformers 5 and safetensors; written with transformers 5.17.0 and torch 2.11.0.
"""

import argparse
import json
import math
import pathlib
import random
import re
import sys
import tempfile
import traceback

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import quantise

OPTIMIZER = {"name": "adamw", "lr": 2e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0,
             "max_grad_norm": 1.0, "schedule": "constant"}
SEQUENCE_LENGTHS = [48, 40, 33, 48]  # repeated
IGNORED = -100
SAFE_CHOICE = 3e-6  # FP32 errors of scores, after some steps of training, stay below that


# ---------------------------------------------------------------------------------------------------------------------
# The model


def random_model(config, seed):
    """A model with random weights. Spread wider than usual, so that no layer or expert is negligible."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager").float()
    generator = torch.Generator().manual_seed(seed)
    persistent = set(model.state_dict())
    tensors = list(model.named_parameters()) + [b for b in model.named_buffers() if b[0] in persistent]
    with torch.no_grad():
        for name, tensor in tensors:
            values = torch.randn(tensor.shape, generator=generator)
            if "norm" in name:
                tensor.copy_(1 + 0.1 * values)
            elif tensor.dim() == 1:
                tensor.copy_(0.1 * values)  # biases
            elif "embed_tokens" in name:
                tensor.copy_(0.5 * values)
            else:
                tensor.copy_(values / math.sqrt(tensor.shape[-1]))
    return model


def save_model(model, folder, shards):
    """Writes the checkpoint in BF16, and returns the model as it stands in the files, in FP32."""
    tensors = model.state_dict()
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.copy_(tensor.to(torch.bfloat16).float())
    size = 2 * sum(p.numel() for p in model.parameters())
    # Saving converts names and layouts, so the reference is computed with what was read back. Only a copy is cast:
    # a cast would also round the frequencies of the rotary embedding.
    copy = AutoModelForCausalLM.from_config(model.config)
    copy.load_state_dict(tensors)
    copy.to(torch.bfloat16).save_pretrained(folder, max_shard_size=size // shards + size // 10 if shards > 1 else "5GB")
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    for name, tensor in loaded.state_dict().items():
        if not torch.equal(tensor.float(), tensors[name].float()):
            raise RuntimeError(f"tensor {name} changed when the checkpoint was written and read again")
    return loaded


def quantise_model(folder, form):
    """Quantises the checkpoint; returns the model with the weights that its codes stand for, in FP32."""
    config = (folder / "config.json").read_text()
    values = quantise.quantise(folder, form)
    with tempfile.TemporaryDirectory() as plain:
        (pathlib.Path(plain) / "config.json").write_text(config)
        save_file({name: t.contiguous() for name, t in values.items()}, pathlib.Path(plain) / "model.safetensors",
                  metadata={"format": "pt"})
        return AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32, attn_implementation="eager")


def freeze(model):
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    model.requires_grad_(False)
    return model.eval()  # no dropout


# ---------------------------------------------------------------------------------------------------------------------
# LoRA


class Lora:
    """The factors of all adapted modules, and how modules use them."""

    def __init__(self, case):
        self.case = case
        self.factors = {}  # module name -> (A, B, scale)
        self.enabled = True
        self.generator = torch.Generator().manual_seed(case.seed + 1)

    def adapt(self, module, out_features, in_features):
        """Adds factors; B is not zero, so that every gradient counts from the first step."""
        rank = int(first_match(self.case.rank_pattern, module, self.case.rank))
        alpha = first_match(self.case.alpha_pattern, module, self.case.alpha)
        a = torch.randn(rank, in_features, generator=self.generator) / math.sqrt(in_features)
        b = torch.randn(out_features, rank, generator=self.generator) * 0.05
        scale = alpha / (math.sqrt(rank) if self.case.rslora else rank)
        self.factors[module] = (torch.nn.Parameter(a), torch.nn.Parameter(b), scale)

    def delta(self, module, x):
        """s B A x, or 0 if the module is not adapted."""
        if not self.enabled or module not in self.factors:
            return 0
        a, b, scale = self.factors[module]
        return scale * F.linear(F.linear(x, a), b)

    def tensors(self):
        """All trainable parameters under their names in a PEFT adapter."""
        result = {}
        for module in sorted(self.factors):
            a, b, _ = self.factors[module]
            result[f"base_model.model.{module}.lora_A.weight"] = a
            result[f"base_model.model.{module}.lora_B.weight"] = b
        return result


def first_match(pattern, module, default):
    """The value of the first key that PEFT would find for a module: the key ends its name."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


class ExpertsWithLora(torch.nn.Module):
    """Takes the place of a module of fused experts and adapts each expert by itself."""

    def __init__(self, experts, lora, names):
        super().__init__()
        self.gate_up_proj = experts.gate_up_proj  # [E, 2 I, H]
        self.down_proj = experts.down_proj  # [E, H, I]
        self.act_fn = experts.act_fn
        self.lora = lora
        self.names = names  # of gate, up and down of each expert

    def forward(self, hidden_states, top_k_index, top_k_weights):
        output = torch.zeros_like(hidden_states)
        for expert, (gate_name, up_name, down_name) in enumerate(self.names):
            token, choice = torch.where(top_k_index == expert)
            if token.numel() == 0:
                continue
            x = hidden_states[token]
            gate_weight, up_weight = self.gate_up_proj[expert].chunk(2)
            gate = F.linear(x, gate_weight) + self.lora.delta(gate_name, x)
            up = F.linear(x, up_weight) + self.lora.delta(up_name, x)
            active = self.act_fn(gate) * up
            y = F.linear(active, self.down_proj[expert]) + self.lora.delta(down_name, active)
            output = output.index_add(0, token, (y * top_k_weights[token, choice, None]).to(output.dtype))
        return output


def kind_of(module_name):
    """experts, attention, shared or dense; None for what is never adapted, such as routers."""
    if ".self_attn." in module_name:
        return "attention"
    if re.search(r"\.mlp\.shared_experts?\.\w+_proj$", module_name):
        return "shared"
    if re.search(r"\.mlp\.(gate|up|down)_proj$", module_name):
        return "dense"
    return "experts" if module_name.endswith(".mlp.experts") else None


def expert_names(model_type, folder, experts):
    """Names that gate, up and down of each expert have in checkpoints."""
    names = ("gate_proj", "up_proj", "down_proj")
    if model_type == "mixtral":
        folder = folder.replace(".mlp.", ".block_sparse_moe.")
        names = ("w1", "w3", "w2")
    return [tuple(f"{folder}.{e}.{name}" for name in names) for e in range(experts)]


def install_lora(model, case):
    """Adapts the modules of the case's targets. The model without adapters must not change by it."""
    lora = Lora(case)
    tokens = torch.arange(32)[None] % model.config.vocab_size
    with torch.no_grad():
        before = model(input_ids=tokens).logits
    for name, module in list(model.named_modules()):
        kind = kind_of(name)
        if kind == "experts":
            experts, hidden, intermediate = module.down_proj.shape
            names = expert_names(model.config.model_type, name, experts)
            if kind in case.targets:
                for gate, up, down in names:
                    lora.adapt(gate, intermediate, hidden)
                    lora.adapt(up, intermediate, hidden)
                    lora.adapt(down, hidden, intermediate)
            model.get_submodule(name.rpartition(".")[0]).experts = ExpertsWithLora(module, lora, names)
        elif kind in case.targets and isinstance(module, torch.nn.Linear):
            lora.adapt(name, module.out_features, module.in_features)
            module.register_forward_hook(lambda _, inputs, output, name=name: output + lora.delta(name, inputs[0]))
    lora.enabled = False
    with torch.no_grad():
        difference = (model(input_ids=tokens).logits - before).abs().max() / before.abs().max()
    lora.enabled = True
    if difference > 1e-5:
        raise RuntimeError(f"experts computed one by one differ from those of transformers by {difference:.1e}")
    if not lora.factors:
        raise RuntimeError(f"no module fits the targets {case.targets}")
    return lora


def save_adapter(folder, case, tensors):
    """An adapter as PEFT stores it, with experts one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, folder / "adapter_model.safetensors",
              metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": case.name, "r": case.rank,
              "lora_alpha": case.alpha, "lora_dropout": 0.0, "bias": "none", "target_modules": target_names(tensors),
              "inference_mode": False, "use_rslora": case.rslora, "use_dora": False, "fan_in_fan_out": False,
              "init_lora_weights": True, "modules_to_save": None, "rank_pattern": case.rank_pattern,
              "alpha_pattern": case.alpha_pattern}
    write_json(folder / "adapter_config.json", config)


def target_names(tensors):
    """Last parts of the names of adapted modules."""
    return sorted({name.split(".")[-3] for name in tensors})


# ---------------------------------------------------------------------------------------------------------------------
# Data, losses, training


def make_sequences(vocabulary, count, seed):
    """Tokens that mostly follow a fixed successor, so that there is something to learn; the first quarter is a prompt
    that is not trained on. Position t's label is the token at t."""
    draw = random.Random(seed)
    successor = list(range(vocabulary))
    draw.shuffle(successor)
    sequences = []
    for i in range(count):
        tokens = [draw.randrange(vocabulary)]
        while len(tokens) < SEQUENCE_LENGTHS[i % len(SEQUENCE_LENGTHS)]:
            tokens.append(successor[tokens[-1]] if draw.random() < 0.7 else draw.randrange(vocabulary))
        prompt = len(tokens) // 4
        sequences.append({"input_ids": tokens, "labels": [IGNORED] * prompt + tokens[prompt:]})
    return sequences


def log_probabilities(model, sequence, bf16):
    """Of the labels that are trained on, each predicted from the tokens before it."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = model(input_ids=torch.tensor([sequence["input_ids"]]), use_cache=False).logits[0, :-1]
    labels = torch.tensor(sequence["labels"][1:])
    chosen = labels != IGNORED
    rows = F.log_softmax(logits.float(), dim=-1)[chosen]
    return rows.gather(1, labels[chosen, None])[:, 0]


def target_tokens(batch):
    return sum(label != IGNORED for sequence in batch for label in sequence["labels"][1:])


def evaluate(model, batches, bf16):
    """The mean loss over the target tokens of each batch."""
    with torch.no_grad():
        return [-sum(log_probabilities(model, s, bf16).double().sum().item() for s in batch) / target_tokens(batch)
                for batch in batches]


def train(model, lora, batches, steps, bf16):
    """AdamW steps over the batches in order, around at the end. Returns losses and gradient norms before each update,
    and the gradients of the first step before clipping."""
    tensors = lora.tensors()
    parameters = list(tensors.values())
    optimizer = torch.optim.AdamW(parameters, lr=OPTIMIZER["lr"], betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]),
                                  eps=OPTIMIZER["eps"], weight_decay=OPTIMIZER["weight_decay"])
    losses, norms, first_gradients = [], [], {}
    for step in range(steps):
        batch = batches[step % len(batches)]
        optimizer.zero_grad(set_to_none=False)
        loss = 0.0
        for sequence in batch:  # one by one: no padding
            part = -log_probabilities(model, sequence, bf16).sum() / target_tokens(batch)
            part.backward()
            loss += part.item()
        for tensor in parameters:  # an expert that no token chose
            tensor.grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        if step == 0:
            first_gradients = {name: tensor.grad.clone() for name, tensor in tensors.items()}
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, OPTIMIZER["max_grad_norm"]).item())
        losses.append(loss)
        optimizer.step()
    return losses, norms, first_gradients


def relative_error(found, expected):
    """Norm of the difference of two sets of tensors relative to the norm of the second."""
    error = sum((found[name] - expected[name]).double().square().sum() for name in expected)
    return (error / sum(t.double().square().sum() for t in expected.values())).sqrt().item()


def worst_relative_error(found, expected):
    """The largest error of one tensor relative to its own norm, or to a millionth of all norms."""
    total = math.sqrt(sum(t.double().square().sum().item() for t in expected.values()))
    return max((found[n] - expected[n]).double().norm().item() / max(expected[n].double().norm().item(), 1e-6 * total)
               for n in expected)


# ---------------------------------------------------------------------------------------------------------------------
# A case


class ClosestChoice:
    """While it is active, the smallest difference between the last score that a router chose and the first that it did
    not: where rounding may decide."""

    def __init__(self):
        self.difference = math.inf

    def __enter__(self):
        self.topk = torch.topk
        torch.topk = self.observe
        return self

    def __exit__(self, *_):
        torch.topk = self.topk

    def observe(self, scores, k, *arguments, **options):
        if scores.dim() == 2 and k < scores.shape[1]:  # [tokens, experts or groups], not leaders within groups
            best = self.topk(scores.detach(), k + 1, dim=-1).values
            self.difference = min(self.difference, (best[:, k - 1] - best[:, k]).min().item())
        return self.topk(scores, k, *arguments, **options)


def write_json(path, content):
    path.write_text(json.dumps(content, indent=1) + "\n")


def make_case(case, folder):
    """Writes the whole folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if case.model:
        original = AutoModelForCausalLM.from_pretrained(case.model, dtype=torch.float32)
    else:
        original = random_model(case.config, case.seed)
    model = save_model(original, folder, case.shards)
    if case.quantise:
        model = quantise_model(folder, case.quantise)
    model = freeze(model)
    lora = install_lora(model, case)
    initial = {name: tensor.detach().clone() for name, tensor in lora.tensors().items()}
    sequences = make_sequences(model.config.vocab_size, case.sequences, case.seed + 2)
    (folder / "train.jsonl").write_text("".join(json.dumps(s) + "\n" for s in sequences))
    batches = [sequences[i:i + case.batch_size] for i in range(0, len(sequences), case.batch_size)]

    results, gradients, closest = {}, {}, {}
    for bf16 in (False, True):
        with ClosestChoice() as closest[bf16]:
            with torch.no_grad():
                for name, tensor in lora.tensors().items():
                    tensor.copy_(initial[name])
                label_log_probabilities = log_probabilities(model, sequences[0], bf16).tolist()
            before = evaluate(model, batches, bf16)
            losses, norms, gradients[bf16] = train(model, lora, batches, case.steps, bf16)
            results[bf16] = {"eval_loss_per_batch": before, "first_sequence_label_logprobs": label_log_probabilities,
                             "train_loss": losses, "grad_norm": norms,
                             "final_eval_loss_per_batch": evaluate(model, batches, bf16)}
        if bf16:
            results[bf16] |= {
                "grads_step0_relative_error": relative_error(gradients[True], gradients[False]),
                "grads_step0_worst_tensor_error": worst_relative_error(gradients[True], gradients[False]),
                "max_relative_loss_error": max(abs(f - e) / e for f, e in zip(losses, results[False]["train_loss"]))}
        else:
            save_adapter(folder / "adapter_final", case, lora.tensors())
    save_adapter(folder / "adapter_init", case, initial)
    save_file(gradients[False], folder / "grads_step0.safetensors")

    tokens = [target_tokens(batch) for batch in batches]
    mean = sum(loss * n for loss, n in zip(results[False]["eval_loss_per_batch"], tokens)) / sum(tokens)
    write_json(folder / "expected.json",
               {"batch_size": case.batch_size, "lora_r": case.rank, "lora_alpha": case.alpha, "optimizer": OPTIMIZER,
                "targets": target_names(initial), "eval_loss_tokenmean": mean,
                "closest_choice": closest[False].difference, **results[False],
                "pytorch_bf16_autocast": results[True]})
    if case.model_type:
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", config | {"model_type": case.model_type})
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    first, last = results[False]["eval_loss_per_batch"][0], results[False]["final_eval_loss_per_batch"][0]
    print(f"{folder}: {len(lora.factors)} adapted modules, {size / 1e6:.2f} MB, loss {first:.4f} -> {last:.4f}, "
          f"bf16 gradients off by {results[True]['grads_step0_relative_error']:.3f}, "
          f"closest choice {closest[False].difference:.1e}", flush=True)
    if closest[False].difference < SAFE_CHOICE:
        print(f"{folder}: a router chooses between scores that differ by {closest[False].difference:.1e}: rounding may "
              f"decide, and results then jump; make the case again with another --seed", flush=True)


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=pathlib.Path, metavar="CASE", help="the folder to write")
    parser.add_argument("--all", type=pathlib.Path, metavar="DIR", help="write the cases of all families below DIR")
    parser.add_argument("--quantised", type=pathlib.Path, metavar="DIR",
                        help="write the cases of all layouts of quantised weights below DIR")
    parser.add_argument("--only", default="", help="with --all or --quantised: cases whose name contains this")
    parser.add_argument("--model", help="folder of a checkpoint")
    parser.add_argument("--config", type=lambda path: json.loads(pathlib.Path(path).read_text()),
                        help="JSON file of a configuration, for random weights")
    parser.add_argument("--model-type", default="", help="write another model_type to config.json, such as kimi_k2")
    parser.add_argument("--targets", type=lambda text: text.split(","), default=["experts"],
                        help="experts, attention, shared, dense, with commas")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--alpha", type=int, default=8)
    parser.add_argument("--rslora", action="store_true", help="scale by alpha / sqrt(rank)")
    parser.add_argument("--rank-pattern", type=json.loads, default={}, help='JSON, for example {"q_proj": 16}')
    parser.add_argument("--alpha-pattern", type=json.loads, default={})
    parser.add_argument("--shards", type=int, default=1, help="about how many files the weights are spread over")
    parser.add_argument("--quantise", default="", choices=["", *quantise.FORMATS],
                        help="how projections are stored; adapters train beside the weights that the codes stand for")
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    return parser


# ---------------------------------------------------------------------------------------------------------------------
# Small cases of all families. Sizes are odd on purpose: few are multiples of 32, none of them large.

COMMON = {"vocab_size": 160, "max_position_embeddings": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
          "bos_token_id": None, "eos_token_id": None}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MLA = {"num_key_value_heads": 4, "kv_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 20}

CASES = {
    "qwen2_moe": {
        "config": {**COMMON, "model_type": "qwen2_moe", "hidden_size": 56, "num_key_value_heads": 2,
                   "intermediate_size": 72, "moe_intermediate_size": 40, "shared_expert_intermediate_size": 88,
                   "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": False, "decoder_sparse_step": 1,
                   "mlp_only_layers": [0], "qkv_bias": True, "rope_parameters": PLAIN_ROPE},
        "targets": ["experts", "attention", "shared", "dense"], "shards": 3,
        "rank_pattern": {"q_proj": 6, r"layers\.1\.mlp\.experts\.\d+\.down_proj": 2}, "alpha_pattern": {"q_proj": 9}},
    "deepseek_v2_greedy": {
        "config": {**COMMON, **MLA, "model_type": "deepseek_v2", "hidden_size": 64, "intermediate_size": 72,
                   "q_lora_rank": None, "moe_intermediate_size": 40, "n_routed_experts": 8, "n_shared_experts": 2,
                   "num_experts_per_tok": 3, "first_k_dense_replace": 1, "topk_method": "greedy", "n_group": 1,
                   "topk_group": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": False,
                   "rope_parameters": PLAIN_ROPE}},
    "deepseek_v2_groups": {
        "config": {**COMMON, **MLA, "model_type": "deepseek_v2", "hidden_size": 48, "intermediate_size": 72,
                   "q_lora_rank": 28, "moe_intermediate_size": 36, "n_routed_experts": 8, "n_shared_experts": 1,
                   "num_experts_per_tok": 2, "first_k_dense_replace": 1, "topk_method": "group_limited_greedy",
                   "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.5, "norm_topk_prob": False,
                   "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                                       "original_max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0,
                                       "mscale": 0.707, "mscale_all_dim": 0.707}},
        "targets": ["experts", "attention", "shared", "dense"], "shards": 2},
    "glm4_moe": {
        "config": {**COMMON, "model_type": "glm4_moe", "hidden_size": 60, "num_key_value_heads": 2, "head_dim": 16,
                   "intermediate_size": 80, "moe_intermediate_size": 44, "n_routed_experts": 8, "n_shared_experts": 1,
                   "num_experts_per_tok": 3, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
                   "routed_scaling_factor": 1.5, "norm_topk_prob": True, "use_qk_norm": True, "attention_bias": True,
                   "rope_parameters": {**PLAIN_ROPE, "partial_rotary_factor": 0.5}},
        "targets": ["experts", "attention", "shared"], "rslora": True},
    "olmoe": {
        "config": {**COMMON, "model_type": "olmoe", "hidden_size": 64, "num_key_value_heads": 2,
                   "intermediate_size": 40, "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": False,
                   "pad_token_id": None, "rope_parameters": PLAIN_ROPE},
        "targets": ["experts", "attention"]},
    "kimi_k2": {
        "config": {**COMMON, **MLA, "model_type": "deepseek_v3", "hidden_size": 72, "intermediate_size": 96,
                   "q_lora_rank": 28, "moe_intermediate_size": 24, "n_routed_experts": 16, "n_shared_experts": 1,
                   "num_experts_per_tok": 4, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
                   "routed_scaling_factor": 2.827, "norm_topk_prob": True,
                   "rope_parameters": {"rope_type": "yarn", "rope_theta": 50000.0, "factor": 32.0,
                                       "original_max_position_embeddings": 4096, "beta_fast": 1.0, "beta_slow": 1.0,
                                       "mscale": 1.0, "mscale_all_dim": 1.0}},
        "model_type": "kimi_k2", "targets": ["experts", "attention"], "shards": 4},
    "mixtral_window": {
        "config": {**COMMON, "model_type": "mixtral", "hidden_size": 64, "num_key_value_heads": 2,
                   "intermediate_size": 80, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 12,
                   "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
        "targets": ["experts", "attention"], "rank_pattern": {"experts.1.w2": 6, "v_proj": 2}},
}

# Sizes that 128 does not divide, for blocks of 128 x 128; the other layouts ask for multiples of their groups.
QUANTISED = {**COMMON, "vocab_size": 96, "num_hidden_layers": 1, "model_type": "qwen3_moe", "num_key_value_heads": 2,
             "head_dim": 32, "intermediate_size": 128, "num_experts": 4, "num_experts_per_tok": 2,
             "norm_topk_prob": True, "rope_parameters": PLAIN_ROPE}
QUANTISED_CASES = {
    form: {"config": {**QUANTISED, "hidden_size": 144 if form == "fp8_block" else 128,
                      "moe_intermediate_size": 72 if form == "fp8_block" else 64},
           "targets": ["experts", "attention"], "quantise": form, "rank": 2, "sequences": 8, "steps": 6,
           "seed": 1 if form == "fp8_small_block" else 0}  # no choice of a router that BF16 decides
    for form in quantise.FORMATS
}


def main():
    parser = options()
    case = parser.parse_args()
    torch.set_num_threads(2)  # the matrices are small
    directory = case.all or case.quantised
    if not directory:
        if not case.folder or bool(case.model) == bool(case.config):
            parser.error("give CASE and one of --model, --config; or --all DIR, or --quantised DIR")
        case.name = case.folder.name
        make_case(case, case.folder)
        return 0
    failed = []
    for name, changes in (CASES if case.all else QUANTISED_CASES).items():
        if case.only in name:
            try:
                settings = argparse.Namespace(**(vars(case) | {"name": name} | changes))
                make_case(settings, directory / name)
            except Exception:  # the other families are worth having
                traceback.print_exc()
                failed.append(name)
    print("all cases written" if not failed else f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
