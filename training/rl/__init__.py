"""LA-DAPO on TRL's GRPOTrainer: `python -m training.rl`.

How it differs from the paper's text and from the public release:
- sampled latents are replayed as inputs in every pass (the release feeds the placeholder's embedding instead);
- forced tokens, the placeholders and an end that the budget forces, carry no text loss;
- R_ctr leaves the anchor out of its own positives and negatives and has one bounded formula for every case;
- R_div is neutral where it is undefined (fewer than two spans), so it does not pay for imagining less;
- latents are deterministic (latent_std 0, no latent term) or Gaussian, with the exact density ratio; the release scores
  deterministic latents with an inner product that is no density;
- an anchor can hold the latent-producing states to the SFT model's, which is the KL of a Gaussian latent policy of
  fixed width; the paper has none, the demo needs it.
"""
