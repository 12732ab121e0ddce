"""Prompt formats as data, and the templates that come with a checkpoint."""
