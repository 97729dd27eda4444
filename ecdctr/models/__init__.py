"""The networks.

Embeddings, target attention, snapshot aggregation, TPM, and the one network of CPM and A-CTR.
"""
