"""mserve: an LLM serving system whose coordination strategy is a short declarative file."""

__version__ = "0.1.0"
