"""Scripts that build what mlux ships; they are not part of the installed package."""
