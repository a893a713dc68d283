"""The allow-list of what may lie beside a model's config and weights: it is downloaded, and copied to results."""

CHAT = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tekken.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "bpe.codes", "tokenizer.model", "tokenizer.model.v*", "spiece.model"),
    *("sentencepiece.bpe.model", "sentencepiece.model", "spm.model", "*.tiktoken"),
    *CHAT,
)
GENERATION = "generation_config.json"
PROCESSORS = (
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("image_processor_config.json", "feature_extractor_config.json"),
)
"""Of models that see or hear."""
EMBEDDING = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "[0-9]_*/config.json")
"""Of sentence-transformers."""
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
CODE = "*.py"
COMPANIONS = (*TOKENIZER, GENERATION, *PROCESSORS, *EMBEDDING, *LICENCES, CODE)
"""All of these."""
