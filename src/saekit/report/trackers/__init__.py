"""Trackers: a training log as other tools show it. The log is the record; these are copies."""
