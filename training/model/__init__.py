"""The latent-reasoning Qwen3-VL: tokens, latent splice, vision features, encoding of dialogues, batched decoding."""
