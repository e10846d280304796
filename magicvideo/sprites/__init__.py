"""The sprites domain: procedural captioned videos whose every attribute and motion is known exactly."""
