"""Probes: classes of labelled texts, told from activations, codes and reconstructions."""
