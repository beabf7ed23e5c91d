"""Text that comes from people or goes to them: YAML that is read safely, Markdown that is escaped, secrets left out.

Text comes in; values, or text that is safe to show, go out. It may import `reproduce.errors`.
"""
