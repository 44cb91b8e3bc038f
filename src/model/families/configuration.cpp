#include "model/families/configuration.hpp"

#include "core/error.hpp"
#include "core/text.hpp"

#include <array>

namespace moesaic::model {
namespace {

/// What configurations of all families have: keys of transformers' PretrainedConfig, versions 4 and 5, with the
/// sampling defaults that version 4 wrote into it, and notes of programs that train, convert or serve.
const io::KnownKeys& common_keys() {
    static const io::KnownKeys keys = {
        .required = {"model_type", "hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads",
                     "num_experts_per_tok", "num_experts", "num_local_experts", "n_routed_experts", "intermediate_size",
                     "head_dim", "layer_types", "rope_scaling", "rope_parameters"},
        .defaults = {{"tie_word_embeddings", false}, {"rope_theta", 10000.0}},
        .only = {{"hidden_act", "silu"},
                 {"is_causal", true},
                 {"add_cross_attention", nullptr},
                 {"attention_dropout", nullptr},
                 {"cross_attention_hidden_size", nullptr},
                 {"is_encoder_decoder", nullptr},
                 {"per_layer_config", nullptr},
                 {"pruned_heads", nullptr}},
        .ignored = {
            // PretrainedConfig
            "architectures", "attn_implementation", "auto_map", "chunk_size_feed_forward", "dtype",
            "experts_implementation", "finetuning_task", "id2label", "initializer_range", "is_decoder", "label2id",
            "max_window_layers", "name_or_path", "num_labels", "output_attentions", "output_hidden_states",
            "output_router_logits", "problem_type", "return_dict", "task_specific_params", "tf_legacy_loss",
            "tie_encoder_decoder", "tokenizer_class", "torch_dtype", "torchscript", "transformers_version",
            "transformers_weights", "use_bfloat16", "use_cache", "use_return_dict",
            // read by read_quantisation
            "quantization_config",
            // special tokens
            "bos_token_id", "decoder_start_token_id", "eos_token_id", "mask_token_id", "pad_token_id", "sep_token_id",
            "unk_token_id",
            // sampling
            "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "bad_words_ids",
            "begin_suppress_tokens", "cache_config", "cache_implementation", "constraints", "diversity_penalty",
            "do_sample", "dola_layers", "early_stopping", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty",
            "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty", "force_words_ids",
            "forced_bos_token_id", "forced_decoder_ids", "forced_eos_token_id", "guidance_scale", "is_assistant",
            "length_penalty", "low_memory", "max_length", "max_matching_ngram_size", "max_new_tokens", "max_time",
            "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size", "num_assistant_tokens",
            "num_assistant_tokens_schedule", "num_beam_groups", "num_beams", "num_return_sequences", "output_logits",
            "output_scores", "penalty_alpha", "prefill_chunk_size", "prefix", "prompt_lookup_num_tokens",
            "remove_invalid_values", "renormalize_logits", "repetition_penalty", "return_dict_in_generate",
            "return_legacy_cache", "sequence_bias", "stop_strings", "suppress_tokens", "target_lookbehind",
            "temperature", "token_healing", "top_h", "top_k", "top_p", "typical_p", "watermarking_config",
            // training from scratch, and multi-token prediction, whose layers are left out
            "aux_loss_alpha", "ep_size", "moe_router_aux_loss_coef", "moe_aux_loss_coeff", "num_mtp_layers",
            "num_nextn_predict_layers", "pretraining_tp", "router_aux_loss_coef", "router_z_loss_coef", "seq_aux",
            // programs
            "model_name", "unsloth_fixed", "unsloth_version", "use_flash_attn", "use_flash_attention_2"}};
    return keys;
}

/// Features of other families, or of programs that go beyond transformers, which change what is computed. A family
/// that has one of them lists it itself.
const io::KnownKeys& features_of_others() {
    static const io::KnownKeys keys = [] {
        io::KnownKeys features;
        features.only = {{"scoring_func", "softmax"},
                         {"scoring_function", "softmax"},
                         {"score_function", "softmax"},
                         {"topk_method", "greedy"},
                         {"n_group", 1},
                         {"topk_group", 1},
                         {"num_expert_group", 1},
                         {"num_limited_groups", 1},
                         {"moe_layer_freq", 1},
                         {"moe_every_n_layers", 1},
                         {"moe_layer_interval", 1},
                         {"interleave_moe_layer_step", 1},
                         {"routed_scaling_factor", 1},
                         {"router_scaling_factor", 1},
                         {"moe_router_topk_scaling_factor", 1},
                         {"attention_multiplier", 1},
                         {"embedding_multiplier", 1},
                         {"residual_multiplier", 1},
                         {"logits_scaling", 1},
                         {"logit_scale", 1},
                         {"scale_emb", 1},
                         {"scale_embedding", false},
                         {"partial_rotary_factor", 1},
                         {"rotary_pct", 1},
                         {"rotary_percent", 1},
                         {"hidden_activation", "silu"},
                         {"activation_function", "silu"},
                         {"mlp_hidden_act", "silu"},
                         {"expert_hidden_act", "silu"},
                         {"rope_interleave", false},
                         {"norm_type", "rmsnorm"},
                         {"position_embedding_type", "rope"}};
        constexpr std::array off = {
            // attention
            "add_full_attention_sink_bias", "add_sink", "add_swa_attention_sink_bias", "alibi", "attention_bias",
            "attention_chunk_size", "attention_gate", "attention_k_eq_v", "attention_kind", "attention_out_bias",
            "attention_output_gate", "attention_sink", "attention_sinks", "attention_value_scale", "attn_bias",
            "attn_config", "attn_logit_softcapping", "attn_output_gate", "attn_scale", "attn_softmax_bias",
            "attn_temperature_tuning", "attn_type_list", "clip_qkv", "compress_rates", "compress_ratios",
            "dual_chunk_attention_config", "floor_scale", "full_attention_interval", "full_attn_idxs",
            "global_attn_every_n_layers", "global_head_dim", "gated_attention", "hybrid_layer_pattern",
            "hybrid_override_pattern", "index_head_dim", "index_n_heads", "index_topk", "index_topk_freq",
            "index_topk_pattern", "indexer_types", "kv_bias", "kv_lora_rank", "layers_block_type", "learnable_sink",
            "linear_attn_config", "linear_attention", "linear_conv_kernel_dim", "linear_key_head_dim",
            "linear_num_key_heads", "linear_num_value_heads", "linear_value_head_dim", "local_attention", "mixer_types",
            "moba_config", "no_rope_layer_interval", "no_rope_layers", "nope_layers", "num_kv_shared_layers", "o_bias",
            "o_groups", "o_lora_rank", "parallel_attn", "q_lora_rank", "qk_head_dim", "qk_layernorm",
            "qk_nope_head_dim", "qk_norm", "qk_rope_head_dim", "qkv_bias", "query_pre_attn_scalar", "sink",
            "sliding_window_pattern", "sliding_window_size", "sliding_window", "softmax_scale",
            "sparse_attention_config", "swa_head_dim", "swa_num_attention_heads", "swa_num_key_value_heads",
            "swa_rope_theta", "use_alibi", "use_attention_sinks", "use_bias", "use_gated_attention", "use_l2_norm",
            "use_mla", "use_nope", "use_qk_norm", "use_qkv_bias", "use_sliding_window", "v_head_dim", "value_residual",
            // positions
            "learned_position_embeddings", "mrope_section", "nope_layer_interval", "rope_local_base_freq", "rope_ratio",
            "rope_scaling_factor", "rotary_dim", "use_learned_position_embeddings", "use_mrope", "xpos",
            "alibi_bias_max",
            // feed-forward networks, experts and routers
            "activation_alpha", "activation_limit", "decoder_sparse_step", "dense_intermediate_size",
            "dense_mlp_intermediate_size", "enable_moe_block", "expert_bias", "expert_layer_offset",
            "expert_layer_period", "first_k_dense_replace", "mlp_bias", "mlp_layer_types", "mlp_only_layers",
            "moe_intermediate_size", "moe_k", "moe_latent_size", "moe_layer_end_index", "moe_layer_offset",
            "moe_layer_period", "moe_layer_start_index", "moe_layers_enum", "moe_norm_min", "moe_num_experts",
            "moe_num_shared_experts", "moe_renormalize", "moe_router_enable_expert_bias", "moe_router_use_sigmoid",
            "moe_shared_expert_intermediate_size", "moe_use_aux_free", "n_hash_layers", "n_shared_experts",
            "norm_topk_prob", "num_hash_layers", "num_null_experts", "num_shared_experts", "num_zero_experts",
            "input_jitter_noise", "router_bias", "router_hidden_size", "router_input_scale", "router_jitter_noise",
            "router_logit_softcapping", "shared_expert_intermediate_size", "shared_intermediate_size", "swiglu_alpha",
            "swiglu_limit", "swiglu_limits", "use_grouped_topk", "use_moe_bias", "use_routing_bias",
            "use_shared_expert", "zero_expert_num", "zero_expert_type",
            // the stream, norms, embedding and head
            "altup_num_inputs", "apply_residual_connection_post_layernorm", "dim_model_base", "embd_pdrop",
            "embedding_dropout", "embedding_scale", "engram_config", "final_logit_softcapping", "hc_mult",
            "hc_sinkhorn_iters", "hidden_dropout", "hidden_dropout_prob", "hidden_size_per_layer_input", "laurel_rank",
            "layer_norm_eps", "lm_head_bias", "lm_head_multiplier", "mup_scale", "new_decoder_architecture",
            "post_norm", "resid_pdrop", "residual_dropout", "rms_norm_unit_offset", "sandwich_norm", "scale_depth",
            "use_cla", "use_mup", "use_parallel_residual", "use_post_norm", "zero_centered_gamma",
            // other kinds of layers and inputs
            "attn_layer_indices", "audio_config", "conv_L_cache", "conv_kernel", "mamba_d_conv", "mamba_d_state",
            "mamba_num_heads", "ssm_cfg", "ssm_state_size", "state_size", "text_config", "time_mix_extra_dim",
            "vision_config",
            // weights that are not what they seem
            "bitnet_quantization", "compression_config", "expert_dtype", "quantization", "quant_method",
            "weight_quantization"};
        for (const char* key : off) {
            features.only[key] = nullptr;
        }
        return features;
    }();
    return keys;
}

}  // namespace

Configuration::Configuration(const nlohmann::json& object, const io::KnownKeys& family, const std::string& source)
    : object_(object), family_(family), source_(source) {
    const std::array tables = {&family, &common_keys(), &features_of_others()};
    unknown_ = io::judge_keys(object, tables, source);
}

const nlohmann::json& Configuration::object_with(const std::string& key) const {
    if (object_.contains(key)) {
        return object_;
    }
    return family_.defaults.contains(key)         ? family_.defaults
           : common_keys().defaults.contains(key) ? common_keys().defaults
                                                  : object_;
}

double Configuration::get_number(const std::string& key, double minimum, double maximum) const {
    const auto value = get<double>(key);
    core::require(value >= minimum && value <= maximum, core::ExitCode::corrupt_input,
                  "{}: {} = {} makes no sense (a number from {} to {} does); correct the file", source_, key, value,
                  minimum, maximum);
    return value;
}

bool Configuration::has(const std::string& key) const {
    const auto found = object_.find(key);
    return found != object_.end() && !found->is_null();
}

void Configuration::refuse_unless(const std::string& key, const nlohmann::json& supported) const {
    if (!has(key) || object_[key] == supported) {
        return;
    }
    core::fail(core::ExitCode::usage, "{}: {} = {} is not supported (only {} is); use a model without it", source_, key,
               core::printable(object_[key].dump(), 80), supported.dump());
}

}  // namespace moesaic::model
