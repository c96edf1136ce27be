"""Sparsity Cliff: where activation sparsity starts to cost accuracy."""
