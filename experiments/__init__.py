"""The registered experiments that ship with mlux, one a file."""
