"""The ``config.json`` of well-known repositories of the hub, as they lie there: each describes its
model."""

import jax
import pytest

from jaxmodels.weights.hub_config import fields_from_transformers

BERT = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}
MULTILINGUAL = {  # of Google's own files, and what was fine-tuned from them
    "directionality": "bidi",
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
}
GPT2 = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}
VIT = {
    "_name_or_path": "google/vit-base-patch16-224-in21k",
    "architectures": ["ViTForImageClassification"],
    "attention_probs_dropout_prob": 0.0,
    "encoder_stride": 16,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 768,
    "id2label": {str(i): f"name {i}" for i in range(1000)},
    "image_size": 224,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "label2id": {f"name {i}": str(i) for i in range(1000)},
    "layer_norm_eps": 1e-12,
    "model_type": "vit",
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_hidden_layers": 12,
    "patch_size": 16,
    "qkv_bias": True,
    "transformers_version": "4.13.0.dev0",
}
MARIAN = {
    "_name_or_path": "/tmp/Helsinki-NLP/opus-mt-en-de",
    "_num_labels": 3,
    "activation_dropout": 0.0,
    "activation_function": "swish",
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "architectures": ["MarianMTModel"],
    "attention_dropout": 0.0,
    "bad_words_ids": [[58100]],
    "bos_token_id": 0,
    "classif_dropout": 0.0,
    "classifier_dropout": 0.0,
    "d_model": 512,
    "decoder_attention_heads": 8,
    "decoder_ffn_dim": 2048,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 6,
    "decoder_start_token_id": 58100,
    "decoder_vocab_size": 58101,
    "dropout": 0.1,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 6,
    "eos_token_id": 0,
    "extra_pos_embeddings": 58101,
    "force_bos_token_to_be_generated": False,
    "forced_eos_token_id": 0,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
    "max_length": 512,
    "max_position_embeddings": 512,
    "model_type": "marian",
    "normalize_before": False,
    "normalize_embedding": False,
    "num_beams": 6,
    "num_hidden_layers": 6,
    "pad_token_id": 58100,
    "scale_embedding": True,
    "share_encoder_decoder_embeddings": True,
    "static_position_embeddings": True,
    "transformers_version": "4.22.0.dev0",
    "use_cache": True,
    "vocab_size": 58101,
}
STARS = {
    "id2label": {str(i): f"{i + 1} stars" for i in range(5)},
    "label2id": {f"{i + 1} stars": i for i in range(5)},
}
ENTITIES = {"_num_labels": 9, "id2label": {str(i): name for i, name in enumerate("OBCDEFGHI")}}
FILES = {  # repository: its file, and numbers of parameters as its card or transformers gives them
    "google-bert/bert-base-uncased": (BERT, 110_106_428),
    "google-bert/bert-base-cased": (
        {k: v for k, v in BERT.items() if k != "use_cache"} | {"vocab_size": 28996},
        None,
    ),
    "nlptown/bert-base-multilingual-uncased-sentiment": (
        {k: v for k, v in BERT.items() if k != "pad_token_id"}
        | MULTILINGUAL
        | STARS
        | {
            "_num_labels": 5,
            "architectures": ["BertForSequenceClassification"],
            "finetuning_task": "sentiment-analysis",
            "output_past": True,
            "vocab_size": 105879,
        },
        167_360_261,
    ),
    "dslim/bert-base-NER": (
        BERT
        | ENTITIES
        | {
            "architectures": ["BertForTokenClassification"],
            "max_length": 512,
            "output_past": True,
            "vocab_size": 28996,
        },
        None,
    ),
    "sentence-transformers/all-MiniLM-L6-v2": (
        BERT
        | {
            "_name_or_path": "nreimers/MiniLM-L6-H384-uncased",
            "architectures": ["BertModel"],
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_hidden_layers": 6,
        },
        22_713_216,
    ),
    "openai-community/gpt2": (GPT2, 124_439_808),
    "distilbert/distilgpt2": (
        GPT2
        | {
            "_num_labels": 1,
            "id2label": {"0": "LABEL_0"},
            "label2id": {"LABEL_0": 0},
            "n_layer": 6,
        },
        81_912_576,
    ),
    "openai-community/gpt2-xl": (
        GPT2 | {"n_embd": 1600, "n_head": 25, "n_layer": 48, "output_past": True},
        None,
    ),
    "google/vit-base-patch16-224": (VIT, 86_567_656),
    "google/vit-large-patch32-384": (
        VIT
        | {
            "hidden_size": 1024,
            "image_size": 384,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 32,
        },
        None,
    ),
    "Helsinki-NLP/opus-mt-en-de": (MARIAN, None),
    "Helsinki-NLP/opus-mt-zh-en": (
        MARIAN
        | {"bad_words_ids": [[65000]], "pad_token_id": 65000, "decoder_start_token_id": 65000}
        | dict.fromkeys(("vocab_size", "decoder_vocab_size", "extra_pos_embeddings"), 65001),
        None,
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_hub_describes_its_model(name):
    config, count = FILES[name]
    cls, fields, shape, _ = fields_from_transformers(config)
    model = cls(**fields, scan=True)
    if count is None:
        assert model.num_layers == config.get("num_hidden_layers", config.get("n_layer"))
        return
    tokens = (
        jax.ShapeDtypeStruct((1, 4), "int32")
        if not shape
        else jax.ShapeDtypeStruct((1, *shape), "float32")
    )
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), tokens)
    assert sum(x.size for x in jax.tree.leaves(variables)) == count
