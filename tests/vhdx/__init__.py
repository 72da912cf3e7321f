"""Chains of VHDX files for tests, and the readers of others that judge what bootpoint makes of them."""
