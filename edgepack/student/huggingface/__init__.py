"""A Hugging Face model folder as a student: what it holds (folder, modules, images, tokens), its task, its torch module, its exporters.

Only files of the folder are read, weights only from safetensors, and no code of the folder ever runs.
"""
