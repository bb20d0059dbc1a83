"""The page, built with Gradio; the only room that imports it."""
