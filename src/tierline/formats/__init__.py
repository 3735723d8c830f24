"""Number formats: the exact bytes of a tensor in each of them, and which tensor gets which."""
