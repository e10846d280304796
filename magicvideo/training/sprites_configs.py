"""How each denoiser and autoencoder stage of the sprites recipe is trained; see ``magicvideo.training.sprites``."""

from dataclasses import replace

from magicvideo.training.diffusion import Conditions
from magicvideo.training.loop import TrainConfig

LOW, HIGH = 152, 264  # sides of I2V's and V2V's frames in pixels

AUTOENCODER = TrainConfig(
    steps=1700, batch_size=16, learning_rate=2e-3, weight_decay=0.0, ema_decay=0.998, cooldown=0.7, seed=0
)
DECODER = TrainConfig(
    steps=2000, batch_size=16, learning_rate=1e-3, weight_decay=0.0, ema_decay=0.998, cooldown=0.8, seed=7
)
T2I = TrainConfig(
    steps=6500,
    batch_size=40,
    learning_rate=1.5e-3,
    optimizer="muon",
    seed=1,
    warmup=200,
    cooldown=0.5,
    ema_decay=0.9985,
    save_every=250,
)
I2V = TrainConfig(
    steps=2400,
    batch_size=4,
    learning_rate=1e-3,
    optimizer="muon",
    seed=2,
    warmup=100,
    cooldown=0.6,
    ema_decay=0.997,
    save_every=100,
)
# Two video batches an image batch teach motion and cost the shared layers a fifth of the images' shapes. They start
# from half way back to the image model, where those are there again, and see more images than videos.
CLOSING = TrainConfig(
    steps=1800,
    batch_size=4,
    learning_rate=6e-4,
    optimizer="muon",
    seed=4,
    warmup=50,
    cooldown=0.9,
    ema_decay=0.995,
    save_every=100,
)
# Images are still worse than the image model's. Most of the way back to it they are not, if the layers that read the
# text, whose motion words the image model never needed, stay; I2V's own layers then settle on what they find.
SETTLING = TrainConfig(
    steps=360,
    batch_size=4,
    learning_rate=6e-4,
    optimizer="muon",
    seed=5,
    warmup=20,
    cooldown=0.9,
    ema_decay=0.985,
    save_every=60,
    log_every=20,
)
IMAGE_SHARE = 0.6  # of the image model in the shared layers, from settling on
# Shapes gain from images for longer than the layers that read the text can bear without their motion words: those are
# left alone. I2V's own layers are fitted to the outcome.
POLISHING = TrainConfig(
    steps=2400,
    batch_size=40,
    learning_rate=8e-4,
    optimizer="muon",
    seed=6,
    warmup=50,
    cooldown=0.9,
    ema_decay=0.996,
    save_every=200,
)
FITTING = replace(SETTLING, steps=800, seed=8)
CORNERS = replace(POLISHING, seed=9)
EXTREMES = replace(POLISHING, steps=1600, seed=11)
REFITTING = replace(FITTING, steps=600, seed=10)
# ControlNet shows the same picture at every frame, so the appearance encoder was hardly needed, and the noise leant too
# little to matter. The preset's `prior_strength` follows from the lean.
LEANING = replace(REFITTING, seed=12)
LEANT_ON = Conditions(control_drop=0.35, noise_lean=0.25)
V2V = TrainConfig(
    steps=160,
    batch_size=2,
    learning_rate=7e-4,
    optimizer="muon",
    seed=3,
    warmup=20,
    cooldown=0.6,
    ema_decay=0.98,
    save_every=40,
    log_every=20,
)
