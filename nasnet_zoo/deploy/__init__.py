"""Writing networks to files for deployment, and running those files."""
