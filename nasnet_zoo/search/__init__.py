"""Search for new cells: spaces, a controller trained by PPO, samplers for Optuna."""
