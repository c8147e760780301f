"""Rationales: response store, importers, filters with a ledger, and their release as a dataset."""
