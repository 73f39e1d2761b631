"""Measurements: what the losses cost, beside ``torch.sort`` of the same scores in the same process."""
