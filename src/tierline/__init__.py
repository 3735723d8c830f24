"""Tierline: plan, simulate and run transformers bigger than the fast memory they have."""
