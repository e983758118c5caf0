"""Layer 4, models: model cards and the engines that run them."""
