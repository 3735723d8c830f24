"""Any model that transformers can build, observed on the meta device; the only reader that needs torch."""
