"""The kinds of steps, one module each (`kinds` lists them), what they share, and what of them runs on workers."""
