"""Asking a finished model: answers, measures, reasons."""
