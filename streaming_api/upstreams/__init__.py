"""Where answers come from: the API gateway, or the embedded model behind the same protocol."""
