"""Supervised fine-tuning on interleaved text and latents, on TRL's SFTTrainer: `python -m training.sft`."""
