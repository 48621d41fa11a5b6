"""Tests that ``make test`` leaves out and ``make test-all`` runs: long, and a shorter test of the
same behaviour stays. ``pytest tests/test_x.py::test_y`` runs any of them by name."""

import re
from typing import NamedTuple


class Slow(NamedTuple):
    """One test of the table.

    Attributes:
      test: name of its function.
      why: what stands in for it in ``make test``.
      only: ids of its cases that are slow; empty for all of them.
      keep: ids of its cases that are not.
    """

    test: str
    why: str
    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def holds(self, case: str) -> bool:
        """Tells whether a case of the test is slow."""
        found = any(matches(case, pattern) for pattern in self.only or self.keep)
        return found if self.only else not found


def matches(case: str, pattern: str) -> bool:
    """Tells whether a pattern, in which ``*`` is any text, is that of a case."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), case) is not None


LONGEST = (
    *("test_compare", "test_loop", "test_text_runs", "test_transformer", "test_sharding"),
    *("test_plan", "test_weights", "test_fusion", "test_explain", "test_transfer", "test_compress"),
    *("test_meshes", "test_vae", "test_table", "test_language", "test_surgeon", "test_text_sets"),
    *("test_originals", "test_text", "test_distributed", "test_differences", "test_house"),
    *("test_distill", "test_multitask", "test_generation_settings", "test_weights_classes"),
    *("test_models", "test_cpu", "test_explain_page", "test_attention", "test_hub_config"),
    *("test_generate_weights", "test_lstm", "test_layers", "test_data_builders", "test_wheel"),
)
"""Files in the order in which ``make test`` begins them, by their time; the others follow. At the end
no worker then waits long for the other."""

FLOAT64 = "float64 stays for every family: test_float64_equals_the_original"
CASES = "further cases of one behaviour; the cheapest stay"
SIZES = "further sizes of one behaviour; the cheapest stay"
TIMING = "tools that time; test_speed and test_the_command stay"
RESUMED = "resumption stays in test_loop, test_table, test_transfer and, of a VAE, in test_vae"
EXPLAINED = (
    "the pages of images here and of images with texts in test_fusion; methods in test_explain"
)
PROCESSES = "two processes stay in test_loop and, with the coordinator killed, in test_distributed"
MESHES = "meshes stay in test_sharding for twelve families, and here for small ones"

TABLE: dict[str, tuple[Slow, ...]] = {
    "test_compare": (
        Slow(
            "test_another_order_of_flattening_fails_at_the_size_of_the_certificate",
            "another padding stays; float64 parity of small ones",
        ),
        Slow(
            "test_initial_values_are_drawn_as_the_originals",
            SIZES,
            keep=("resnet18", "gpt2_tiny", "bilstm", "vit_ti_16"),
        ),
        Slow(
            "test_tanh_instead_of_exact_gelu_is_located", "another padding and another epsilon stay"
        ),
        Slow("test_every_family_equals_its_original", FLOAT64, keep=("mlp",)),
        Slow("test_speed_on_a_gpu_is_of_bfloat16", TIMING),
        Slow("test_peak_memory_is_of_the_case_that_is_given", TIMING),
        Slow(
            "test_a_gpu_that_is_not_there_is_named",
            "test_certificates_time_only_where_both_are_on_a_cpu",
        ),
        Slow(
            "test_epsilon_of_layer_norm_is_located", "another wrong layer and another epsilon stay"
        ),
        Slow("test_faults_of_batch_norm_are_located", CASES, only=("fault1-*",)),
        Slow("test_decay_of_biases_fails", "test_a_fault_of_the_optimizer_fails stays"),
        Slow("test_whole_texts_are_timed_without_masks", TIMING, only=("bert",)),
        Slow("test_a_twin_trains_as_a_run_of_ours", CASES, only=("adamw",)),
        Slow(
            "test_parameters_are_counted_at_full_size",
            "test_models counts every preset; here one of each family stays",
            only=(
                *("gpt2_1558m", "gpt2_774m", "gpt2_355m", "gpt2_124m"),
                *("vit_h_14", "vit_l_32", "vit_l_16", "vit_b_16", "vit_b_32", "vit_s_16"),
                *("resnet152", "resnet101", "resnet34", "bert_large", "bert_base"),
                *("transformer_big", "transformer_base", "minilm_l12"),
            ),
        ),
    ),
    "test_meshes": (
        Slow("test_explicit_meshes_without_jit", "runs and tools are compiled"),
        Slow(
            "test_every_family_initialises_and_trains_under_meshes_of_either_type",
            MESHES,
            keep=("mlp", "cnn", "multi_task"),
        ),
        Slow("test_tools_under_an_explicit_mesh", CASES, keep=("heat",)),
        Slow("test_explicit_meshes_with_split_parameters", CASES, only=("bert",)),
        Slow("test_steps_of_training_under_an_explicit_mesh", CASES, only=("gpt2-causal_lm",)),
    ),
    "test_sharding": (
        Slow(
            "test_float32_loss_curve_of_20_sgd_steps_equals_one_device",
            "test_two_processes_equal_one compares curves, on a mesh of eight",
        ),
        Slow(
            "test_cross_entropy_in_parts_on_a_mesh_is_that_of_one_device", CASES, keep=("2x2x2-16",)
        ),
        Slow(
            "test_float64_gradients_equal_one_device",
            "the other families stay; python -m tests.meshes tries all",
            only=("googlenet", "dual_encoder", "fusion", "transformer"),
        ),
        Slow("test_micro_batches_on_a_mesh", CASES, keep=("cnn",)),
        Slow("test_float32_gradients_of_gpt2_split_by_length", "float64 stays"),
        Slow(
            "test_scanned_layers_are_gathered_one_at_a_time",
            "test_plan counts what a layer gathers",
        ),
        Slow("test_each_parameter_is_matched_by_exactly_one_rule", SIZES, only=("inception_v3",)),
        Slow("test_initial_values_do_not_depend_on_the_mesh", CASES, keep=("2x2x2",)),
    ),
    "test_text_runs": (
        Slow("test_evaluate_translates_too", "test_generate_translates gives the same texts"),
        Slow("test_both_losses_are_those_of_the_formula", "test_multitask has the formula"),
        Slow(
            "test_micro_batches_of_pretraining_equal_one_batch",
            "test_multitask has two losses in micro-batches",
        ),
        Slow("test_a_stopped_translator_goes_on_as_if_nothing_had_been", RESUMED),
        Slow("test_a_stopped_classifier_goes_on_as_if_nothing_had_been", RESUMED),
        Slow("test_stopped_pretraining_goes_on_as_if_nothing_had_been", RESUMED),
        Slow("test_what_a_translation_looks_at", EXPLAINED),
        Slow("test_pairs_of_texts_are_classified_by_bert", "single texts stay, and BERT elsewhere"),
    ),
    "test_explain_page": (
        Slow(
            "test_what_a_quantised_run_predicts_is_explained",
            "test_compress: what a quantised run evaluates",
        ),
        Slow(
            "test_parts_that_miss_the_whole_are_said_with_the_way_out",
            "test_explain: completeness is a formula",
        ),
        Slow("test_a_vit_on_a_mesh", "test_explain has images and texts on a mesh"),
        Slow("test_the_page_of_texts", EXPLAINED),
        Slow(
            "test_a_kernel_in_whose_place_einsum_shows_the_weights_is_said", "test_explain says it"
        ),
        Slow(
            "test_completeness_that_is_not_defined_is_left_out_and_counted",
            "test_means_are_of_what_is_defined stays",
        ),
        Slow("test_the_page_of_a_language_model", EXPLAINED),
        Slow("test_mistakes", CASES, only=("labels-*", "language-*")),
    ),
    "test_compress": (
        Slow(
            "test_every_model_multiplies_in_int8_without_an_edit",
            CASES,
            only=(
                "inception_v3",
                "googlenet",
                "resnet18",
                "transformer_tiny",
                "fusion",
                "dual_encoder",
                "vgg11_bn",
                "alexnet",
                "vit_b_16_hf",
            ),
        ),
        Slow(
            "test_int8_is_near_float32_and_nearer_to_its_simulation_in_float",
            CASES,
            keep=("cnn",),
        ),
        Slow("test_int8_in_bfloat16", "float32 stays"),
        Slow(
            "test_int8_on_a_mesh",
            CASES,
            keep=("{'data': 1, 'fsdp': 8}-cnn",),
        ),
        Slow(
            "test_zeros_stay_zero_through_100_steps",
            CASES,
            only=("adamw-global-0.8", "adafactor-global-0.8"),
        ),
        Slow("test_the_report", "test_a_short_report stays"),
        Slow("test_pruning_on_a_mesh_is_that_of_one_device", "int8 on a mesh stays"),
    ),
    "test_transformer": (
        Slow("test_backends_agree_and_padding_is_never_nan", "backends agree in test_attention"),
        Slow("test_a_search_does_not_depend_on_what_it_is_padded_with", "padded batches stay"),
        Slow("test_beam_search_equals_transformers", CASES, only=("layers",)),
        Slow(
            "test_nothing_is_seen_of_later_tokens_nor_of_padding_nor_of_other_pairs",
            CASES,
            only=("False",),
        ),
        Slow(
            "test_a_padded_batch_is_what_its_texts_are_alone",
            CASES,
            only=("{}", "{'position': 'sine_halves'}"),
        ),
        Slow(
            "test_every_dropout_is_on_in_training_only",
            CASES,
            only=(
                "False-*",
                "True-attention_dropout_rate",
                "True-activation_dropout_rate",
            ),
        ),
        Slow(
            "test_other_lengths_and_forbidden_tokens_equal_transformers", "test_generation_settings"
        ),
        Slow("test_scores_are_of_the_texts", CASES, only=("layers",)),
        Slow("test_a_cache_gives_what_the_whole_text_does", CASES, only=("False",)),
        Slow(
            "test_equals_torch_nn_transformer",
            CASES,
            keep=(
                "{}",
                "{'norm_first': True, 'scan': True}",
                "{'final_norm'*",
            ),
        ),
    ),
    "test_loop": (
        Slow(
            "test_several_steps_in_one_call_are_the_steps_of_several_calls",
            "test_two_processes_equal_one takes several",
        ),
        Slow(
            "test_a_run_without_any_output_is_the_same_run",
            "output that is closed, full or unread stays",
        ),
        Slow("test_two_processes_are_the_same_each_time", PROCESSES),
        Slow("test_signals_save_and_exit_0", CASES, only=("2-0",)),
        Slow("test_nan_stops_the_run_that_takes_several_steps_at_once", "one step at a time stays"),
        Slow("test_a_signal_during_an_evaluation_loses_nothing", CASES, only=("16-10",)),
        Slow("test_nan_stops_the_run_and_names_the_tensor", CASES, only=("9",)),
        Slow(
            "test_stopping_at_any_step_and_resuming_changes_nothing",
            CASES,
            keep=("5",),
        ),
        Slow("test_a_damaged_config_is_named", CASES, only=("[]", '{"optim": 1}', "")),
    ),
    "test_originals": (
        Slow(
            "test_a_field_reaches_the_original_or_is_refused_by_name",
            "each family as it is stays, and every field of the cheap ones",
            keep=(
                "alexnet-as it is",
                "vgg-as it is",
                "resnet-as it is",
                "*transformer-as it is",
                "marian-as it is",
                "bert*-as it is",
                "mlp-*",
                "cnn-*",
                "lstm-*",
                "vit-*",
                "gpt2-*",
                "vae*-as it is",
                "cifar_resnet-as it is",
            ),
        ),
    ),
    "test_explain": (
        Slow(
            "test_grad_cam_equals_torch", CASES, keep=("resnet20-True", "cnn-True", "alexnet-True")
        ),
        Slow("test_the_kernel_that_auto_chooses_is_said", CASES, keep=("127-None-True",)),
        Slow("test_fused_attention_is_run_plainly_and_said", CASES, only=("xla",)),
        Slow("test_bfloat16_models_are_explained_in_float32", "float32 stays"),
        Slow("test_gradients_of_texts_equal_transformers", CASES, keep=("False-integrated",)),
        Slow("test_gradients_of_images_equal_torch", CASES, keep=("resnet20-shape0-fields0-*",)),
        Slow("test_attention_of_texts_equals_transformers", CASES, only=("bert_tiny-False",)),
        Slow("test_attention_of_images_equals_transformers", CASES, only=("False",)),
        Slow(
            "test_attention_of_the_transformer_equals_torch", "Marian's, of the same model, stays"
        ),
        Slow("test_texts_on_a_mesh", "test_images_on_a_mesh stays"),
        Slow(
            "test_the_default_layer_is_the_last_map", CASES, only=("inception_v3-*", "googlenet-*")
        ),
        Slow(
            "test_rollout_looks_back_only_where_the_model_does", "test_rollout_equals_numpy stays"
        ),
        Slow("test_the_logit_lens_equals_transformers", CASES, only=("fields1",)),
    ),
    "test_fusion": (
        Slow("test_what_is_missing_or_padding_has_no_influence", CASES, keep=("concat", "mean")),
        Slow("test_gradients_on_a_mesh_equal_those_of_one_device", "test_sharding has fusion"),
        Slow("test_what_is_fused_equals_pytorch", CASES, only=("concat",)),
    ),
    "test_weights": (
        Slow(
            "test_every_preset_has_a_map",
            SIZES,
            keep=(
                "mlp",
                "cnn",
                "vae",
                "vae_conv",
                "alexnet",
                "vgg11",
                "googlenet",
                "resnet18",
                "resnet20",
                "vit_ti_16",
                "gpt2_tiny",
                "bert_tiny",
                "minilm_l6",
                "transformer_tiny",
                "lstm",
                "bilstm",
            ),
        ),
        Slow(
            "test_round_trip_is_bitwise",
            SIZES,
            only=("inception_v3-8", "googlenet-7", "vgg11_bn-6"),
        ),
    ),
    "test_attention": (
        Slow(
            "test_backends_equal_plain_products",
            SIZES,
            only=("*-64", "*-128", "xla-causal-32", "deferred-causal-32", "splash-padding-32"),
        ),
        Slow(
            "test_cudnn_with_odd_lengths_is_given_one_more_that_nothing_attends_to",
            SIZES,
            keep=("causal-57-64",),
        ),
        Slow("test_splash_on_a_mesh_equals_plain_products", CASES, keep=("padding-64",)),
        Slow("test_auto_is_the_kernel_on_tpus", "test_plan traces the kernel that auto chooses"),
        Slow("test_backends_equal_plain_products_with_a_cache", CASES, only=("xla",)),
    ),
    "test_generation_settings": (
        Slow(
            "test_texts_are_transformers",
            "test_processors_are_transformers has every rule",
            keep=("beams-length_penalty*", "gpt2-repetition*", "gpt2-max_length*"),
        ),
        Slow("test_rules_that_are_there_alone_are_compiled", CASES, only=("ends",)),
        Slow("test_texts_do_not_depend_on_padding", "test_generate_text has batches"),
        Slow("test_weights_in_bfloat16", "float32 stays"),
        Slow("test_drawn_translations_and_texts", "test_beams_are_drawn_without_replacement"),
    ),
    "test_config": (
        Slow(
            "test_every_config_builds",
            "test_plan builds every config",
            keep=("digits_*", "breast_*"),
        ),
    ),
    "test_distill": (
        Slow("test_an_lstm_learns_from_bert", "test_a_student_learns_from_its_teacher stays"),
        Slow("test_a_teacher_on_a_mesh", "meshes stay in test_sharding"),
    ),
    "test_models": (
        Slow(
            "test_bfloat16_reaches_every_product_and_parameters_stay_float32",
            SIZES,
            only=(
                "inception_v3-*",
                "googlenet-*",
                "fusion-*",
                "dual_encoder-*",
                "resnet18-*",
                "vgg11_bn-*",
                "vit_b_16_hf-*",
                "transformer_tiny-False",
            ),
        ),
        Slow("test_dropout_is_on_in_training_only", CASES, only=("alexnet-*", "vit_ti_16-*")),
        Slow(
            "test_parameter_count",
            SIZES,
            only=(
                "gpt2_*m",
                "vit_h_14",
                "vit_l_*",
                "resnet1*",
                "bert_large",
                "inception_v3",
                "convnext_base",
                "transformer_big",
            ),
        ),
        Slow(
            "test_scan_and_remat_change_nothing",
            "test_sharding and test_compare compute scanned ones",
        ),
    ),
    "test_surgeon": (
        Slow(
            "test_grams_are_numpys_of_the_pruned_model_and_of_real_tokens",
            "the formula and the least squares stay",
        ),
        Slow(
            "test_zeros_stay_through_training_and_after_a_resumption",
            "test_compress: zeros through 100 steps",
        ),
        Slow("test_on_eight_devices_it_is_that_of_one", "meshes stay in test_sharding"),
        Slow(
            "test_a_trained_network_keeps_more_than_by_magnitude",
            "less than by magnitude, untrained, stays",
        ),
        Slow(
            "test_masks_are_the_zeros_however_small_the_rest",
            "test_compress: zeros through 100 steps",
        ),
        Slow("test_models_are_pruned_kernel_by_kernel", CASES, only=("vit_ti_16",)),
    ),
    "test_language": (
        Slow("test_nothing_is_seen_of_later_tokens", "test_attention has the mask"),
        Slow("test_a_stopped_run_goes_on_as_if_nothing_had_been", RESUMED),
        Slow(
            "test_cross_entropy_in_parts_is_the_whole", CASES, keep=("cpu-0.0-True", "gpu-0.1-True")
        ),
        Slow("test_a_batch_of_mixed_lengths_equals_one_by_one", "test_generate_text has batches"),
    ),
    "test_lstm": (
        Slow("test_equals_pytorch", CASES, only=("two-*", "both ways-*")),
        Slow("test_a_batch_gives_what_its_texts_give_one_by_one", CASES, keep=("two, both ways",)),
        Slow(
            "test_dropout_stands_before_every_layer_and_the_classifier",
            CASES,
            keep=("two, both ways",),
        ),
        Slow("test_bfloat16_is_near_float32", "float32 stays"),
        Slow(
            "test_the_gradient_of_the_recurrence_is_that_of_the_scan", "gradients equal PyTorch's"
        ),
    ),
    "test_table": (
        Slow("test_the_config_trains", "a smaller run of the same table stays"),
        Slow("test_prepared_without_tensorflow_and_read_by_plain_tfds", "test_data_builders"),
        Slow("test_two_processes_count_each_patient_once", PROCESSES),
        Slow(
            "test_any_prepared_table_works_by_its_name", "test_rows_that_cannot_be_used_are_counted"
        ),
    ),
    "test_weights_classes": (
        Slow(
            "test_each_class_gives_the_same_and_comes_back",
            CASES,
            keep=(
                "BertForPreTraining",
                "GPT2Model",
                "GPT2LMHeadModel",
                "MarianMTModel",
                "ViTModel",
                "ViTForImageClassification-num_labels",
            ),
        ),
        Slow("test_files_of_save_model_and_of_several_names", CASES, only=("MarianMTModel",)),
        Slow("test_prefixes_are_taken_off_and_named", CASES, keep=("model.", "module._orig_mod.")),
        Slow("test_a_table_of_positions_is_the_sinusoid_or_refused", CASES, only=("MarianModel",)),
    ),
    "test_vae": (
        Slow("test_stopping_and_resuming_changes_nothing", CASES, only=("8",)),
        Slow(
            "test_a_gaussian_convolutional_run_in_bfloat16_may_shift_its_pixels", "Bernoulli stays"
        ),
        Slow("test_float64_gradients_on_a_mesh_equal_one_device", "test_sharding has the VAE"),
        Slow("test_nan_names_the_tensor", "test_loop names it"),
    ),
    "test_layers": (
        Slow(
            "test_layer_norm_and_gelu_are_differentiable_forwards_backwards_and_twice",
            "gradients of each stay",
        ),
        Slow("test_pools", CASES, keep=("3-0-3-True", "4-2-3-False", "2-1-2-False")),
    ),
    "test_hub_config": (
        Slow(
            "test_an_applied_key_computes_what_transformers_computes", CASES, keep=("bert", "gpt2")
        ),
        Slow(
            "test_a_key_that_is_not_applied_changes_nothing_or_is_refused_by_name",
            CASES,
            keep=("bert",),
        ),
    ),
    "test_multitask": (
        Slow(
            "test_pretraining_learns_its_weights",
            "test_text_runs pretrains; the loss with learned weights is a formula",
        ),
        Slow("test_a_run_with_two_labels", CASES, only=("False",)),
    ),
    "test_pretrained": (
        Slow("test_fine_tuning_begins_with_them", "test_transfer begins from weights"),
    ),
    "test_distributed": (
        Slow("test_an_exception_in_one_process_ends_both", PROCESSES),
        Slow(
            "test_a_save_that_cannot_be_renamed_ends_both_soon",
            "test_failing_saves: in one process",
        ),
        Slow("test_a_start_that_fails_on_one_leaves_no_workdir", PROCESSES),
    ),
    "test_generate_weights": (
        Slow(
            "test_several_texts_end_each_for_itself",
            "test_a_text_ends_where_the_weights_or_the_caller_say",
        ),
        Slow(
            "test_the_file_says_whether_a_text_is_drawn_and_flags_go_over_it",
            "test_what_generation_config_says_is_done stays",
        ),
        Slow("test_all_settings_reach_the_command_line", "test_generation_settings"),
    ),
    "test_step": (
        Slow("test_same_seed_same_run_other_seed_other_run", "test_loop: two runs are bit equal"),
        Slow("test_micro_batches_equal_one_batch", CASES, only=("12", "4")),
    ),
    "test_regression": (Slow("test_one_output_on_a_sharded_mesh", "meshes stay in test_sharding"),),
    "test_generate_text": (
        *(
            Slow(test, "a model whose layers are scanned stays", only=("layers*",))
            for test in (
                "test_repetition_penalty_equals_transformers",
                "test_a_batch_is_what_its_prompts_are_alone",
                "test_greedy_equals_transformers",
                "test_seeds_decide_and_chunks_do_not",
                "test_stop_tokens_end_a_text",
                "test_one_compilation_whatever_the_lengths",
            )
        ),
    ),
    "test_plan": (
        Slow(
            "test_the_table_is_of_the_configs_as_they_are",
            CASES,
            keep=("digits_*", "gpt2_124m_openwebtext", "imagenet_resnet50"),
        ),
        Slow(
            "test_flops_of_gpt2_are_the_same_however_it_is_computed",
            CASES,
            keep=("1-{}", "4-{'scan': True, 'remat': True}"),
        ),
        Slow("test_attention_of_an_older_chip_is_by_what_compiles_for_it", "GPT-2 for v5e stays"),
        Slow(
            "test_every_family_compiles_and_computes_what_its_formula_says",
            CASES,
            keep=("multi_task",),
        ),
        Slow("test_what_does_not_fit_is_refused_with_the_way_out", "ways out by formula stay"),
        Slow("test_the_search_is_faster_than_a_bad_mesh_by_hand", "the search by formula stays"),
    ),
    "test_transfer": (
        Slow("test_a_step_with_nan_is_replayed_with_the_frozen_part", "test_loop replays NaN"),
        Slow(
            "test_frozen_parameters_do_not_change_by_one_bit_and_have_no_state",
            CASES,
            keep=("adamw-2",),
        ),
        Slow("test_dropout_in_frozen_blocks_is_off", CASES, only=("False",)),
    ),
    "test_cpu": (Slow("test_convolutions_by_products", SIZES, only=("4-4-7-2-3", "4-4-3-2-1")),),
}
