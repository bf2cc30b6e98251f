"""The engine: carries out a method over the steps of an optimizer."""
