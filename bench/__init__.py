"""Measurements: what the losses cost, beside ``torch.sort`` of the same scores in the same process."""

from bench.environment import is_installed, stand_in_for_installation

if not is_installed():
    stand_in_for_installation()
