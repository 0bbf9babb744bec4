"""Sampling as web UIs do it: one denoiser, and samplers that know nothing but noise levels."""
