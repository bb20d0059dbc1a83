"""The web page. A tab a module; each mirrors the library module that it drives."""
