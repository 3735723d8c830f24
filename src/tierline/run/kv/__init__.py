"""Keys and values kept narrower than computed, or on disk: for contexts that outgrow their budget."""
