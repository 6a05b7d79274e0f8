"""From a checked strategy to sub-request plans. Knows nothing of processes, networks or tensors."""
