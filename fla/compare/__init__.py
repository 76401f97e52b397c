"""Runs side by side: what differs in them, what they score, and which sentences that changed."""
