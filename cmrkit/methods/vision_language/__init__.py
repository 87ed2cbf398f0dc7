"""Vision-language models: transformers over images and captions, dual encoders and scorers of pairs."""
