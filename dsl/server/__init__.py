"""The language server, `mserve lsp`: what editors show while a strategy is being written.

Everything is a function of a text and a place in it; only protocol.py and server.py know the
protocol. Plans and tests come from whoever starts the server (commands.py).
"""
