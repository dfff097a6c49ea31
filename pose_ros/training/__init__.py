"""Offline learning and measuring; nothing of it runs on a robot."""
