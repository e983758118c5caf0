"""Small pictures as SVG text: lines over time, and points with an optional diagonal. No library is needed."""
