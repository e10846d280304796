"""MagicVideo-V2: text to image, image to video, video to video, frame interpolation."""
