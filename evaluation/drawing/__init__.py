"""Figures and pictures: plots by matplotlib, sheets of images and text by Pillow."""
