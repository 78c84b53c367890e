"""Synthetic scenes: pictures with exact ground truth, made when they are asked for."""
