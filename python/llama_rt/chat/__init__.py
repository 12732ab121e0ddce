"""Conversations to prompts: the family's formats by name, or a checkpoint's own Jinja template."""

from llama_rt.chat.choose import Template, choose_template, template_names
from llama_rt.chat.jinja.jinja_template import JinjaTemplate
from llama_rt.chat.templates.from_checkpoint import checkpoint_templates
from llama_rt.chat.templates.named_template import NamedTemplate

__all__ = [
    "JinjaTemplate",
    "NamedTemplate",
    "Template",
    "checkpoint_templates",
    "choose_template",
    "template_names",
]
