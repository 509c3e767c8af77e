"""The whole way in one call (`pipeline`), its last stages (`fitting`, `reporting`), and looking at what was made."""
