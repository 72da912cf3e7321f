"""Telling people: mail and webhooks, from rows that were written with their news (`bootpoint_common.store.notice`)."""
