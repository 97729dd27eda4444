"""Out of the project: a version as a bundle that scores with numpy and onnxruntime alone."""
