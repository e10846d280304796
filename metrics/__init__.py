"""Automatic metrics of videos: tensors in, numbers with their uncertainty and signature out."""
