"""The HTTP API: the listeners, the server behind them, who may call, and what they are answered."""
